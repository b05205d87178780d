"""Server processes: startup, gunicorn, its workers, hardening."""
