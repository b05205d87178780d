"""Backups of the database: `manage.py backup`, `restore` and `after_restore`."""

BACKED_UP, RESTORED = "database.backed_up", "database.restored"  # in the audit log
