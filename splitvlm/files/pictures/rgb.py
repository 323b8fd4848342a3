"""From a decoded picture of any mode to RGB: deep greyscale scaled, transparency laid on white.

Colours of 16 bits a sample keep their upper 8. CMYK and LAB are converted by Pillow; ICC profiles are ignored.
"""

from __future__ import annotations

from PIL import Image

from splitvlm.files.pictures.grey import DEEP_MODES, to_grey
from splitvlm.files.pictures.layout import ORDINARY, Samples

WHITE = (255, 255, 255)


def to_rgb(picture: Image.Image, samples: Samples = ORDINARY) -> Image.Image:
    """Returns the picture in mode RGB, as large as it was."""
    if picture.mode in DEEP_MODES:
        return to_grey(picture, samples, picture.info.get("transparency")).convert("RGB")
    _state_transparent_colour(picture, samples)
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    see_through = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
    ground = Image.new("RGB", picture.size, WHITE)
    ground.paste(see_through, mask=see_through.getchannel("A"))
    return ground


def _state_transparent_colour(picture: Image.Image, samples: Samples) -> None:
    """States PNG's transparent colour in the 8 bits that Pillow gives the pixels; it leaves it in the file's own bits."""
    colour = picture.info.get("transparency")
    if picture.mode == "L" and isinstance(colour, int) and samples.bits < 8:
        picture.info["transparency"] = colour * 255 // (2**samples.bits - 1)
    elif picture.mode == "RGB" and isinstance(colour, tuple) and samples.bits == 16:
        picture.info["transparency"] = tuple(sample >> 8 for sample in colour)
