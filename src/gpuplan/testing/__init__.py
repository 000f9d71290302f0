"""A SageMaker to test against: moto's server with AWS's rules for training jobs, and an executor that runs them.

`from gpuplan.testing import Emulator`. For gpuplan's own tests and for its users'; nothing in gpuplan's client may
import it. It needs `moto[server]`, and for running jobs Linux, root and util-linux.
"""

from gpuplan.testing.emulator import Emulator
from gpuplan.testing.errors import EmulatorError
from gpuplan.testing.states import JobView, Transition
from gpuplan.testing.timing import Timing
from gpuplan.testing.wire import Call

__all__ = ["Call", "Emulator", "EmulatorError", "JobView", "Timing", "Transition"]
