"""A sweep file → trials → stacks. Knows no torch at the top, so that files are checked at once."""
