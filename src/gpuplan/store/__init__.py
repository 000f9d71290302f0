"""What was decided and what happened, durably: an append-only event log for each run, and the record folded from it."""
