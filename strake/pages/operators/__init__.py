"""The pages for staff, under /admin/: people, all endpoints, and health."""
