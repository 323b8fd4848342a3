"""Measures profiles of a node's own part (measuring.py), and caches them between starts (cache.py, cached_profiles.py)."""
