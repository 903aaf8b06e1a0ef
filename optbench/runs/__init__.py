"""A sweep being run: its phases in order, what they cost, and what the user sees of them."""
