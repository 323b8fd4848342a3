"""The refusal of a picture file."""

from __future__ import annotations


class PictureRefused(Exception):
    """Says what is wrong with a file, as the rest of a sentence that begins with the picture's name: "is not a picture"."""
