"""The command line: the only room that knows all others, and the place where a recipe becomes a run."""
