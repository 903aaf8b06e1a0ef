"""A sweep being run: its phases in their order, what they cost, and what a person sees of them."""
