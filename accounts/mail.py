from django.core.mail.backends.console import EmailBackend as TerminalBackend  # noqa: F401
