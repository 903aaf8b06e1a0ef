"""A sweep file → trials → stacks. Imports torch only where it is needed, so that files are checked at once."""
