"""What crosses the proxy: request, headers, target."""
