"""`python -m minidalle` is the command line."""

from minidalle.cli import main

main()
