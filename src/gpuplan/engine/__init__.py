"""The one loop that carries out a plan: intent, submit, wait, verify, record. It never names a pipeline."""
