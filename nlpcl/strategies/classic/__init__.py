"""CLASSIC: continual and contrastive learning."""
