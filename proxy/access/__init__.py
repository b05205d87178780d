"""Access control: bearer tokens, the route look-up, policies and limits."""
