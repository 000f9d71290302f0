"""From facts to a plan: batch, memory, time, cost, placement. Pure: no torch, AWS or clock; it reads shipped data."""
