"""Loads hypothesis before any test runs.

Its pytest plugin is else imported in the terminal summary, where CPython 3.11.7 can fail with "AST constructor recursion depth
mismatch" after a long run; seen when only tests without hypothesis were chosen.
"""

import hypothesis  # noqa: F401
