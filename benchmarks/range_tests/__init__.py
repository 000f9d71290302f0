"""Parts of `lr_bad_curves.py`: range tests that hold no answer, sound ones, and what public finders make of them."""
