"""Continual-learning strategies, one file each; see `docs/adding-a-method.md`."""
