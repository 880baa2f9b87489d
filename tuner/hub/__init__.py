"""
What Tuner does with the Hugging Face Hub beyond reading models and data: publish and fetch runs.

A token is an argument here, or the environment of one child process, and is never kept.
"""
