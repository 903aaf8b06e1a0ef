"""A stack that trains: update rules, steps, epochs, and what is fastest for them."""
