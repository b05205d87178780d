"""Backups of the database: `manage.py backup`, `restore` and `after_restore`."""

# The actions of `service`, for audit.record.
BACKED_UP, RESTORED = "database.backed_up", "database.restored"
