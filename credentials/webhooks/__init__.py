"""Webhooks: one URL for each person, to which their notices are posted (https://www.standardwebhooks.com)."""
