"""Numbers → tables. `tables.py` says which tables a sweep has, `formats.py` how a table looks."""
