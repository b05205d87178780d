"""Moving from SQLite to PostgreSQL: `manage.py move_to`."""
