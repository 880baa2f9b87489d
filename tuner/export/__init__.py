"""A run as something else: merged weights, a training script, a notebook."""
