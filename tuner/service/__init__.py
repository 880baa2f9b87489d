"""
What the shell, the page and its API have in common: each action as a function that takes a Recipe
or a Run and returns the document which `--json` prints.
"""
