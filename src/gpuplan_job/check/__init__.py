"""Checks a user's own code on a CPU, before a job that costs something runs it: one batch of two, there and back."""
