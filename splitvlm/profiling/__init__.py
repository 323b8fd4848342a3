"""Measured profiles of a node's own part: measuring.py measures; kept.py keeps them between starts and renews them."""
