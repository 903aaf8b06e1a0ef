"""Rows in and out of a folder."""
