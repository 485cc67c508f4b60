"""From records to comparisons and to a tested folder of results."""
