"""The `strake` command: manages endpoints and tokens through the API, and runs tools with tokens of their own."""

__version__ = "0.1.0"
