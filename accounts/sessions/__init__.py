"""Browser sessions: the service, the session stores, the middleware and a decorator for views."""
