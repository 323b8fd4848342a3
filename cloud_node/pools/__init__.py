"""Pools: they place sessions on workers. `protocol.py` is the seam that the front end sees."""
