"""Avalanche's own strategies."""
