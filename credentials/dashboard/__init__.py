"""The pages of endpoints and tokens."""
