"""The codec: what crosses a cut, to bytes and back, at a level chosen per request (docs/reference/codec.md).

    levels.py     the ladder of levels, the codec's version and hash     (no torch, no numpy)
    limits.py     what a decoder accepts
    dtypes.py     how numpy arrays hold tensors of each dtype
    header.py     varints, the cursor over received bytes, the head of a coded tensor
    blocks.py     one run of bytes, stored or compressed by zstandard
    varints.py    arrays of integers as variable-length bytes
    integers.py   integer and boolean tensors: runs of values or of differences
    lossless.py   byte planes: every bit restored
    outliers.py   which channels and tokens are kept apart
    packing.py    codes of 2 to 16 bits as bytes
    quantise.py   groups of values on a uniform grid, and the law of their error
    klt.py        a float tensor in a calibrated basis
    grid.py       where tokens stand: order of coding, neighbours, places in a picture
    entropy_model.py, context.py  how likely each of its values is: networks; what they are told on the way
    entropy.py    the range coder's stream
    gaps.py       where the values stand in a long band that is zero nearly everywhere
    sparse.py     columns that are zero nearly everywhere, on their way back to features
    reconstruction.py  where, in its cell, the receiver says that a rounded value lay
    prompt.py     a prompt's ids beside it, less the model's template
    calibration_file.py  the file of such bases, which splitvlm.calibration learns
    codec.py      Codec: the levels of one model
    lossy.py      a float tensor as groups of codes, scales and what is kept apart
    boundary.py   encode, decode: all tensors at a cut, as numpy arrays
    picture.py    encode_picture, decode_picture: the cut `image`

It compresses; it does not seal (splitvlm.crypto), and it knows nothing of requests or links. The names below are found
here on first use (PEP 562), so that the ladder can be read where torch is not installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from splitvlm.codec.boundary import decode, encode
    from splitvlm.codec.levels import CODEC_VERSION, FEATURE_LEVELS, PICTURE_LEVELS, codec_hash, levels_of
    from splitvlm.codec.limits import CodecLimits
    from splitvlm.codec.picture import decode_picture, encode_picture
    from splitvlm.codec.quantise import error_bound

__all__ = [
    "CODEC_VERSION",
    "FEATURE_LEVELS",
    "PICTURE_LEVELS",
    "CodecLimits",
    "codec_hash",
    "decode",
    "decode_picture",
    "encode",
    "encode_picture",
    "error_bound",
    "levels_of",
]

_MODULES = {
    "CodecLimits": "limits",
    "decode": "boundary",
    "decode_picture": "picture",
    "encode": "boundary",
    "encode_picture": "picture",
    "error_bound": "quantise",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'levels')}"), name)
