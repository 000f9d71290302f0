"""`--live-prices`: today's prices of a plan's instances, asked of AWS at most once a day and kept in the state folder.

Called by `cli.planning` for plan, launch and compare. A lookup that fails is an error that says how to do without it.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import ValidationError

from gpuplan.cli.account import bills, session
from gpuplan.cli.home import home
from gpuplan.core.errors import GpuplanError, UsageError
from gpuplan.profiles.prices import LivePrices
from gpuplan_job.atomic import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from gpuplan.workload.schema import Settings

    Ask = Callable[[str, datetime], LivePrices]
    """Fetch the prices of one instance type, as of a moment."""

FRESH = timedelta(hours=24)
"""An answer of AWS is used again for so long."""
_FOLDER = "prices"
WITHOUT = "drop --live-prices: the plan then uses the dated prices that gpuplan ships"


def of_settings(settings: Settings, types: Iterable[str]) -> LivePrices:
    """Return today's prices of instance types where and as whom the settings say.

    Raises:
        UsageError: the backend is nothing that AWS bills.
        GpuplanError: as `live_prices`.
    """
    if not bills(settings.launch.backend):
        raise UsageError(
            f"--live-prices: AWS does not bill what backend {settings.launch.backend} runs", fix="drop --live-prices"
        )
    from gpuplan.aws import pricing  # a plan without live prices should not pay for it

    caller = session(settings.aws)
    return live_prices(
        types,
        settings.aws.region,
        home(),
        datetime.now(UTC),
        lambda name, now: pricing.live_prices(caller, name, now),
    )


def live_prices(types: Iterable[str], region: str, home: Path, now: datetime, ask: Ask) -> LivePrices:
    """Return today's prices of instance types in a region, from the cache where it is fresh.

    Raises:
        GpuplanError: AWS could not be asked; its fix names the way without live prices.
    """
    names = sorted(set(types))
    found = [_of_type(name, region, home / _FOLDER / region / f"{name}.json", now, ask) for name in names]
    return LivePrices(
        fetched_at=min(each.fetched_at for each in found),
        region=region,
        instance_types=tuple(names),
        prices=tuple(row for each in found for row in each.prices),
        spot_prices=tuple(row for each in found for row in each.spot_prices),
    )


def _of_type(name: str, region: str, path: Path, now: datetime, ask: Ask) -> LivePrices:
    kept = _read(path)
    if kept is not None and (kept.region, kept.instance_types) == (region, (name,)) and _is_fresh(kept, now):
        return kept
    try:
        asked = ask(name, now)
    except GpuplanError as error:
        error.fix = "    or ".join(filter(None, (error.fix, WITHOUT)))
        raise
    with suppress(OSError):  # a folder that cannot be written costs the next command a call, not this one its prices
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, asked.canonical_json())
    return asked


def _read(path: Path) -> LivePrices | None:
    """Return what is kept; None where there is nothing or what is there is damaged: it is then asked for again."""
    try:
        return LivePrices.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


def _is_fresh(kept: LivePrices, now: datetime) -> bool:
    # One that comes from the future was written under another clock: nobody knows its age.
    return timedelta(0) <= now - kept.fetched_at < FRESH
