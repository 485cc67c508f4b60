"""The results of a run: its record, and the metrics computed from it."""
