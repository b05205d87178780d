"""Metrics for Prometheus, on `STRAKE_METRICS_BIND`.

Each server process writes what it has counted to a file in the folder of its half, once a second. The exporter, another
process without secrets and without a database, listens, and adds the files up at every scrape.
"""
