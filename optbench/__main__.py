"""`python -m optbench`, the same as `optbench`."""

from optbench.cli import app

app(prog_name="optbench")
