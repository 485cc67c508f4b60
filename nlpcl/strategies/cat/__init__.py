"""CAT: continual learning of similar and dissimilar tasks."""
