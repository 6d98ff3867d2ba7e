"""YAML recipes; a recipe states only what differs from the defaults, and starts with the command that runs it."""
