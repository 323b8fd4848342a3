"""Engines: they run the upper part of the model for sequences. `protocol.py` is the seam that sessions see."""
