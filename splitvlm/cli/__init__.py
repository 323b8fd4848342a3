"""`splitvlm VERB`: the one composition root, a file for each group of verbs.

A verb imports what it needs when it runs, so that `--help` is quick.
"""

from splitvlm.cli.program import main

__all__ = ["main"]
