"""Measurements of speed, run by hand: `make bench`. CI does not run them."""
