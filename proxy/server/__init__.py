"""The HTTP server that faces the port."""
