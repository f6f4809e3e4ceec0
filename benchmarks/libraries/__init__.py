"""The questions of `library_choices.py`, one module each."""
