"""Your own data as a stream."""
