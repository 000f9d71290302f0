"""Parts of `lr_regret.py`: the tasks, their trainings, the range tests of gpuplan and of its peers, and the figures."""
