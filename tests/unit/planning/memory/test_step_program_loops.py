"""Where a loop drops its gradients and what it holds on to decide which allocations are alive together."""

import pytest

from gpuplan.planning.memory.step_program import CUBLAS_WORKSPACE, Around, Loop, assemble, at_peak
from gpuplan_job.step_trace import Allocations, InputSpec, Operations, StepTrace, TraceRequest

WEIGHT, ACTIVATION, OUTPUT = 64 << 20, 32 << 20, 16 << 20
LOOPS: tuple[Loop, ...] = (
    "lightning",
    "plain",
    "plain, gradients set to zero before backward",
    "plain, gradients set to zero last",
    "plain, gradients zeroed in place",
)


def a_trace() -> StepTrace:
    """One weight: an activation and an output in the forward pass, a gradient in the backward pass."""
    return StepTrace(
        request=TraceRequest("m:f", InputSpec("images"), "fp32"),
        modules=[""],
        trainable=[WEIGHT],
        trainable_module=[0],
        frozen=[],
        buffers=[],
        inputs=[512.0],
        allocations=Allocations([0, 3, 2], [0, 0, 0], [ACTIVATION, OUTPUT, WEIGHT], [0.0, 0.0, 0.0]),
        outputs=[1],
        forward=[1, 2],
        backward=[3, -1, -2],
        operations=Operations([], [], [], [], [], [], []),
        guesses=0,
        versions={},
    )


def around(loop: Loop, *, cublas_workspace: int = 0) -> Around:
    return Around(1, "sgd", 0.0, 0.0, loop, buckets=False, cublas_workspace=cublas_workspace)


def in_use_when_each_activation_is_made(loop: Loop) -> list[dict[str, int]]:
    """Bytes alive by kind as each iteration makes its activation, that one included."""
    program = assemble(a_trace(), around(loop))
    live: dict[int, int] = {}
    found = []
    for number, size in program.steps:
        if not size:
            del live[number]
            continue
        live[number] = size
        if program.kinds[number] == "activations":
            totals: dict[str, int] = {}
            for alive, bytes_ in live.items():
                totals[program.kinds[alive]] = totals.get(program.kinds[alive], 0) + bytes_
            found.append(totals)
    return found


@pytest.mark.parametrize(
    ("loop", "alive"),
    [
        ("lightning", True),
        ("plain", False),
        ("plain, gradients set to zero before backward", True),
        ("plain, gradients set to zero last", False),
        ("plain, gradients zeroed in place", True),
    ],
)
def test_gradients_live_through_the_forward_pass_unless_they_were_dropped_before(loop: Loop, *, alive: bool) -> None:
    later = in_use_when_each_activation_is_made(loop)[1:]
    assert [totals.get("gradients", 0) for totals in later] == [WEIGHT if alive else 0] * len(later)


@pytest.mark.parametrize("loop", LOOPS)
def test_only_a_plain_loop_holds_the_last_output_during_the_forward_pass(loop: Loop) -> None:
    later = in_use_when_each_activation_is_made(loop)[1:]
    held = 0 if loop == "lightning" else OUTPUT
    assert [totals.get("temporaries", 0) for totals in later] == [held] * len(later)


@pytest.mark.parametrize("loop", LOOPS)
def test_one_batch_of_inputs_is_on_the_gpu_at_a_time(loop: Loop) -> None:
    assert all(totals["inputs"] == 512 for totals in in_use_when_each_activation_is_made(loop))


@pytest.mark.parametrize("loop", LOOPS)
def test_every_number_is_made_once_and_freed_once_at_the_most(loop: Loop) -> None:
    steps = assemble(a_trace(), around(loop)).steps
    made = [number for number, size in steps if size]
    freed = [number for number, size in steps if not size]
    assert len(made) == len(set(made))
    assert len(freed) == len(set(freed))
    assert set(freed) <= set(made)


def test_a_gradient_that_is_added_to_the_last_one_is_there_twice_for_a_moment() -> None:
    program = assemble(a_trace(), around("plain, gradients zeroed in place"))
    assert at_peak(program)["gradients", 0] == 2 * WEIGHT


def test_cublas_keeps_one_workspace_for_each_direction_from_the_first_iteration_on() -> None:
    with_them = assemble(a_trace(), around("plain", cublas_workspace=CUBLAS_WORKSPACE))
    assert with_them.kinds.count("cuBLAS workspaces") == 2
    assert at_peak(with_them)["cuBLAS workspaces", 0] == 2 * 8519680
    assert "cuBLAS workspaces" not in assemble(a_trace(), around("plain")).kinds
