"""How often AWS takes spot instances back: assumptions, each with what it leans on. Pure.

Called by `checkpointing` and `alternatives`.
"""

import math

HOURS_PER_MONTH = 730
"""A year's hours / 12: AWS's own month for a GB-month."""
MONTHLY_SHARE = 0.20
"""p50: share of spot instances that AWS takes back within a month. AWS's Spot Instance Advisor gives bands, < 5 %,
5-10 %, 10-15 %, 15-20 % and > 20 %; this is the edge of the last. An assumption: the band of a type moves, and no API
states it."""
HOURLY_SHARE = 0.10
"""p90: share taken back within an hour, for a time when everybody wants that GPU. An assumption without an upper bound
by AWS: the Advisor's last band has none."""
INTERRUPTIONS_PER_HOUR = (-math.log(1 - MONTHLY_SHARE) / HOURS_PER_MONTH, -math.log(1 - HOURLY_SHARE))
"""Of one instance, p50 and p90: the rate of the memoryless process with those shares."""
