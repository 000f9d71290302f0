"""Units and how a person reads them: GiB, hours, US dollars, counts. Pure functions, called by reports and messages."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal, localcontext

MIB_PER_GIB = 1024
BYTES_PER_GIB = 1024**3
SECONDS_PER_HOUR = 3600
_MINUTE = 60.0
_LONG_HOURS = 48.0
_THOUSAND = 1000


def gib_from_mib(mib: float) -> float:
    """Convert MiB to GiB."""
    return mib / MIB_PER_GIB


def gib_from_bytes(size: float) -> float:
    """Convert bytes to GiB."""
    return size / BYTES_PER_GIB


def significant(value: float, digits: int = 3) -> str:
    """Return a number with `digits` significant digits, without an exponent between 1e-4 and 1e6."""
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if not -4 <= exponent < 6:  # noqa: PLR2004 - the range the docstring states
        return f"{value:.{digits - 1}e}"
    rounded = round(value, digits - 1 - exponent)
    # Rounding may carry into a new digit: 9.996 becomes 10.0, not 10.00.
    exponent = math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(0, digits - 1 - exponent)}f}"


def usd(amount: Decimal) -> str:
    """Return dollars with two decimals, four under a cent."""
    places = Decimal("0.0001") if Decimal(0) < abs(amount) < Decimal("0.01") else Decimal("0.01")
    with localcontext(prec=max(28, amount.adjusted() + 8)):  # quantize refuses more digits than the context holds
        return f"${amount.quantize(places, rounding=ROUND_HALF_UP):,}"


def duration(hours: float) -> str:
    """Return a duration the way people say it: `40 s`, `14 min`, `3.2 h`, `31 h`, `4.1 days`."""
    seconds = hours * SECONDS_PER_HOUR
    if seconds < 1.5 * _MINUTE:
        return f"{significant(seconds, 2)} s"
    if seconds < 1.5 * SECONDS_PER_HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    if hours < _LONG_HOURS:
        return f"{significant(hours, 2)} h"
    return f"{significant(hours / 24, 2)} days"


def time_left(seconds: float) -> str:
    """Return how long something will still take, in its largest units: `14 h 20 min`, `3 min`, `40 s`, `2 d 5 h`."""
    if seconds < 1.5 * _MINUTE:
        return f"{seconds:.0f} s"
    minutes = round(seconds / _MINUTE)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def learning_rate(value: float) -> str:
    """Return a learning rate with three significant digits, in the form people type: 0.0513 or 2.11e-05."""
    return f"{value:.3g}"


def count(value: int) -> str:
    """Return a count with thousands separators."""
    return f"{value:,}" if abs(value) >= _THOUSAND else str(value)
