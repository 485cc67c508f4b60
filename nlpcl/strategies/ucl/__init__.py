"""UCL: uncertainty-regularised continual learning."""
