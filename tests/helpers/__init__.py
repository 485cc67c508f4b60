"""What several tests share and no test may hold."""
