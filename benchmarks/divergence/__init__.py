"""Trainings for `divergence_guard.py`: recorded ones and generated ones, and the peer that watches them too."""
