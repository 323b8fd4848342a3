"""The codec: what crosses a cut, to bytes and back, at a level chosen per request (docs/codec.md).

    levels.py     the ladder of levels, the codec's version and hash     (no torch, no numpy)
    limits.py     what a decoder accepts
    header.py     varints, the cursor over received bytes, the head of a coded tensor
    blocks.py     one run of bytes, stored or compressed by zstandard
    varints.py    arrays of integers as variable-length bytes
    integers.py   integer and boolean tensors: runs of values or of differences
    lossless.py   byte planes: every bit restored
    outliers.py   which channels and tokens are kept apart
    packing.py    codes of 2 to 16 bits as bytes
    quantise.py   groups of values on a uniform grid, and the law of their error
    lossy.py      a float tensor as groups of codes, scales and what is kept apart
    boundary.py   encode, decode: all tensors at a cut
    picture.py    encode_picture, decode_picture: the cut `image`

It compresses; it does not seal (splitvlm.crypto), and it knows nothing of requests or links.
"""
