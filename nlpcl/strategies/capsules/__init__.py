"""Methods with task capsules at the places of adapters: B-CL and CTR."""
