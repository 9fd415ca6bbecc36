"""A page about a run: its log, its settings, and what its model makes of the validation pairs."""
