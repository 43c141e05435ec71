"""`python -m vswitch` is the `lab` command."""

from .cli import main

main()
