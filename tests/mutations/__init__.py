"""Mutation testing: do the tests notice when the code is broken? Run it by hand."""
