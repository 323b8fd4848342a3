"""Keeps Python's garbage collector away from what a node has loaded.

A full pass looks at every object, of which libraries and models bring some hundred thousand: nothing else runs meanwhile, and
the more there are, the more seldom it comes. What is frozen is not looked at, so that passes are short and come in time.
"""

from __future__ import annotations

import gc


def freeze_loaded_objects() -> None:
    """Takes all objects that are there out of the collector's sight. Call it when all is loaded, before the first request.

    They are freed as others are when nothing refers to them; those that refer to each other in a circle stay.
    """
    gc.collect()
    gc.freeze()
