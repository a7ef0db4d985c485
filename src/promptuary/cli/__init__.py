"""The command line: it parses, calls one function of the library, and prints.

Heavy imports are local to the commands, so that `promptuary --help` answers at once.
"""

from promptuary.cli import tuning, using, adapters, publishing, serving, lists, comparing  # noqa: I001, the order of --help
from promptuary.cli.terminal import app, main

__all__ = ["adapters", "app", "comparing", "lists", "main", "publishing", "serving", "tuning", "using"]
