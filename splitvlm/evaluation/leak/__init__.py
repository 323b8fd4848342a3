"""Measures how much of a picture comes back from what crosses a cut (`splitvlm leak`)."""
