"""The views of endpoints and tokens."""
