"""What the health page and `manage.py doctor` find: each figure has its one source here."""
