"""OWM: orthogonal weights modification."""
