"""Compare records, check and file them, and show the filed ones."""
