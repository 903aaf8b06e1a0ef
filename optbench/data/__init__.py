"""Data sets: arrays with fixed splits."""
