"""Parts of `double_submit.py`: what goes wrong in a trial, and the script that it is tried on as well."""
