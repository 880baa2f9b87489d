"""The page: what a browser sees of the runs, and what it may ask for."""
