"""`manage.py doctor`: asks everything that Strake depends on, and says what it found, one line each."""
