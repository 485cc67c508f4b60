"""ACL: adversarial continual learning."""
