"""Measures profiles of a node's own part (measuring.py), and keeps them between starts (cache.py, kept_profiles.py)."""
