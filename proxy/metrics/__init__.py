"""What a proxy process counts, and what it is asked for, for the metrics."""
