"""A scoring server: HTTP requests -> batches -> rewards."""
