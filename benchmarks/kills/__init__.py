"""Trainings that `kill_resume.py` kills and resumes: forked ranks, and whole jobs."""
