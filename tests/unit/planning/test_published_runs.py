"""The benchmarks end with an error when a published run contradicts what docs/estimates*.md claim."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.mark.parametrize("script", ["memory_accuracy.py", "time_accuracy.py"])
def test_no_published_run_contradicts_the_error_that_is_claimed(script: str) -> None:
    done = subprocess.run([sys.executable, str(BENCHMARKS / script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
