"""`python -m boxwright`: the command line, where its script is not on the path."""

from boxwright.cli import main

main()
