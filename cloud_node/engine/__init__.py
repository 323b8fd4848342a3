"""Engines: they run the upper part of the model for sequences. `protocol.py` is the seam that sessions see.

A further engine is one file here, one name in `choice.py`, and one entry of the contract suite (tests/contract).
"""
