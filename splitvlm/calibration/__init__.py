"""Learns codec levels from pictures without labels. No node imports this package."""
