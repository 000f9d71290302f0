"""The user's own code on its way to a job: which files, the archive they make, and where it is kept."""
