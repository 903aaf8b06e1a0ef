"""What trials are computed on: devices, other processes, random numbers that are the same on all of them."""
