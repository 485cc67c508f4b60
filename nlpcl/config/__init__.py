"""Describe runs: spec, presets, orders, encoders, arguments of the command line. Nothing here loads torch."""
