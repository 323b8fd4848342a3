"""From a file's bytes to an upright RGB picture."""

from __future__ import annotations

from collections.abc import Collection

from PIL import Image

from splitvlm.files.pictures.header import FORMATS, lazily_opened
from splitvlm.files.pictures.refusal import PictureRefused
from splitvlm.files.pictures.rgb import to_rgb

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def opened(data: bytes, *, max_pixels: int, formats: Collection[str] = FORMATS, animated: bool = True) -> Image.Image:
    """Returns the first frame of the file, turned upright by its EXIF orientation, as RGB. Raises PictureRefused."""
    _, picture, layout = lazily_opened(data, max_pixels, formats, animated)
    try:
        coloured = to_rgb(picture, layout.samples)
    except Exception as error:  # whatever a plugin raises on a file that is not as it should be
        raise PictureRefused("is damaged and cannot be read as a picture") from error
    turn = _TURNS.get(layout.orientation)
    return coloured if turn is None else coloured.transpose(turn)
