"""Compressed forms of a model, and the measure of what they cost in answers."""
