"""The process that merges an adapter into its base: see __main__.py."""
