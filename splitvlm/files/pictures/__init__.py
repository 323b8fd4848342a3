"""The one place that opens picture files, whoever sent them.

    layout.py     what a walk over a file's own structure finds: size, scans, orientation, the bytes that hold the pixels
    jpeg.py ...   one walk for each format; a walk never decodes a pixel
    exif.py       the orientation in a block of EXIF
    header.py     `inspect`: format, size, mode, and the peak memory that opening takes, or a refusal
    opening.py    `opened`: from bytes to an upright RGB picture
    rgb.py        `to_rgb`: from a decoded picture of any mode to RGB; grey.py does so for greyscale deeper than 8 bits
    refusal.py    `PictureRefused`, which names what is wrong with the file

Only the named formats are opened, and a decoder gets only what holds the pixels: no metadata, no second picture. ICC profiles
are ignored. `splitvlm.model.pictures` opens what a question is about, `splitvlm.codec.picture` what crosses the cut `image`.
"""

from splitvlm.files.pictures.header import FORMATS, PictureHeader, inspect
from splitvlm.files.pictures.opening import opened
from splitvlm.files.pictures.refusal import PictureRefused
from splitvlm.files.pictures.rgb import to_rgb

__all__ = ["FORMATS", "PictureHeader", "PictureRefused", "inspect", "opened", "to_rgb"]
