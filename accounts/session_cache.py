from django.contrib.sessions.backends.cache import SessionStore  # noqa: F401
