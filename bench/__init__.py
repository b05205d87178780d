"""Measurements by hand: `make bench`. Nothing here runs in CI, and no test asserts a time."""
