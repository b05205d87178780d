"""Notices: what a person is told about their tokens and endpoints, by email and by webhook."""
