"""The verbs of the `lab` command: one module each, exposing `command`."""
