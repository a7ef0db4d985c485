"""`python -m promptuary` is the command `promptuary`."""

from promptuary.cli import main

main()
