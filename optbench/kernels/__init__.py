"""Kernels written by hand, for devices where the library's are slow; each module says what it needs to be imported."""
