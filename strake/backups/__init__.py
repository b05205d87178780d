"""Backups of the database: `manage.py backup`, `restore` and `after_restore`."""
