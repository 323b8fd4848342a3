"""Pools: they place sessions on workers. `protocol.py` is the seam that the front end sees.

A further pool is one file here, and one entry of the contract suite (tests/contract/test_pools.py).
"""
