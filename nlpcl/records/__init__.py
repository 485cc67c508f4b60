"""What came out of a run: its record and the metrics of it."""
