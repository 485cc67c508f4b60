"""Files of streams: downloads, hashes and the cache of tokenised text."""
