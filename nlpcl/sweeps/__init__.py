"""Many runs: grids of them, their execution here or on a cluster, and tuning."""
