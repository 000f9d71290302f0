import time_traces
from hypothesis import given
from hypothesis import strategies as st

from gpuplan.planning import roofline
from gpuplan.planning.roofline import Speeds
from gpuplan_job.step_trace import StepTrace

A100 = Speeds(half_tflops=312, tf32_tflops=156, fp32_tflops=19.5, bandwidth_gbs=2039, mixed=True)
