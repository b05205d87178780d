"""Routing metadata of forwarded requests: recording, writing and statistics."""
