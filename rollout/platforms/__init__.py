"""Where stacks run: one file per platform."""
