"""Kill -9 a two-process training at random moments, resume it, and print what was lost and what came out.

    python benchmarks/kill_resume.py                        # 200 kills of forked processes, 20 of real jobs
    python benchmarks/kill_resume.py --kills 50 --jobs 0    # quicker
    python benchmarks/kill_resume.py --kills 40 --jobs 0 --interval 1 --samples 8100    # what is lost: see below

Forked ranks train a tiny network with BatchNorm, dropout, augmentation, accumulation, a ragged step and an average of
the weights; a kill takes one rank, the other, or both. Real jobs are `gpuplan_job.launch` with torchrun; a kill takes a
rank, torchrun or the launcher. The ranks agree on a save by votes a quarter of a second apart, so an interval of less
than a second, which lets many saves fall into a short training, says nothing of what is lost. TMPDIR lies on another
filesystem than the checkpoints. A run is resumed if it ends well, and the same if its weights, and those of its best
epoch, are those of an undisturbed run to the bit.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from kills.forked import Forked
from kills.launched import OTHER_DISK, Launched

if TYPE_CHECKING:
    from kills.outcome import Outcome

SEED = 20261129


def trial(kind: Forked | Launched, kills: int, seconds: float) -> list[Outcome]:
    """Kill at `kills` random moments of the training's `seconds`."""
    outcomes: list[Outcome] = []
    number = 0
    while len(outcomes) < kills:
        number += 1
        victim = kind.victims[len(outcomes) % len(kind.victims)]
        outcome = kind.kill(number, random.uniform(0, seconds), victim)  # noqa: S311 - a moment, no secret
        if outcome is not None:
            outcomes.append(outcome)
            end = "same" if outcome.same else "OTHERWISE"
            told = f"{victim} after {outcome.steps_done} steps, {outcome.steps_lost} lost: ended {end}"
            print(f"{len(outcomes)}/{kills} {told}", file=sys.stderr, flush=True)
    return outcomes


def table(title: str, outcomes: list[Outcome], interval: float | None) -> None:
    """Print what became of each kind of kill; `interval` between saves is given where seconds were measured."""
    print(f"\n{title}\n")
    # A job reports its steps about once a second, so what it took since then is lost and not counted.
    steps_of = "steps lost" if interval else "reported steps lost"
    print(f"| killed | times | resumed | same to the bit | {steps_of}: median, most | seconds lost: most |")
    print("|---|---|---|---|---|---|")
    for victim, times in Counter(outcome.victim for outcome in outcomes).items():
        of = [outcome for outcome in outcomes if outcome.victim == victim]
        steps = sorted(outcome.steps_lost for outcome in of)
        seconds = f"{max(o.seconds_lost for o in of):.2f} s" if interval else "not measured"
        same, resumed = sum(o.same for o in of), sum(o.resumed for o in of)
        print(f"| {victim} | {times} | {resumed} | {same} | {steps[len(steps) // 2]}, {steps[-1]} | {seconds} |")
    print(f"\nresumes {sum(o.resumed for o in outcomes)}/{len(outcomes)}, ", end="")
    print(f"final weights and losses of the undisturbed run {sum(o.same for o in outcomes)}/{len(outcomes)}, ", end="")
    print(f"kills after {min(o.steps_done for o in outcomes)} to {max(o.steps_done for o in outcomes)} steps")
    if interval:
        most = max(o.seconds_lost for o in outcomes)
        print(f"lost work at most {most:.2f} s = {most / interval:.1f} intervals of {interval:g} s")


def main() -> int:
    """Print both tables; the exit status says whether any run did not end as the undisturbed one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="kills of forked ranks")
    parser.add_argument("--jobs", type=int, default=20, help="kills of real jobs")
    parser.add_argument("--interval", type=float, default=0.1, help="seconds between saves")
    parser.add_argument("--samples", type=int, default=810, help="training samples of the forked ranks")
    parser.add_argument("--folder", type=Path, help="where trainings are kept; by default the current folder's disk")
    options = parser.parse_args()
    random.seed(SEED)
    failed = 0
    with (
        tempfile.TemporaryDirectory(dir=options.folder or Path.cwd(), prefix="kill-resume-") as root,
        tempfile.TemporaryDirectory(dir=OTHER_DISK) as elsewhere,
    ):
        os.environ["TMPDIR"] = elsewhere
        os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1] / "src")
        if options.kills:
            forked = Forked(Path(root), options.samples, options.interval)
            print(f"forked: an undisturbed training takes {forked.seconds:.1f} s for its {forked.layout.steps} steps")
            outcomes = trial(forked, options.kills, forked.seconds)
            table("Two ranks forked from a warm process", outcomes, options.interval)
            failed += sum(not outcome.same for outcome in outcomes)
        if options.jobs:
            try:
                launched = Launched(Path(root) / "jobs", options.interval)
                print(f"\njobs: an undisturbed one takes {launched.seconds:.1f} s, imports included")
                outcomes = trial(launched, options.jobs, launched.seconds / 3)
                table("Real jobs: launcher, torchrun, two ranks", outcomes, None)
                failed += sum(not outcome.same for outcome in outcomes)
            finally:
                shutil.rmtree(OTHER_DISK / Path(root).name, ignore_errors=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
