"""Signing in with a link: the service, its views, cookies and email, its rate limits and policy."""
