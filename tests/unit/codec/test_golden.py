"""Golden vectors: coded bytes of version 1 that must decode to the same bits for ever.

A change that breaks them needs a new version byte and CODEC_VERSION; then `python tests/unit/codec/test_golden.py` writes
new ones. Encoders are free: what today's encoder writes must only decode to the same tensors.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from splitvlm.codec import CODEC_VERSION, FEATURE_LEVELS, CodecLimits, codec_hash
from tests.coding import decode, encode

FOLDER = Path(__file__).parent / "golden"


def boundary() -> dict[str, torch.Tensor]:
    """Made by integer arithmetic, so that it is the same on every machine."""
    x = ((torch.arange(8 * 24) * 2654435761 % 2001) - 1000).float().reshape(8, 24) / 256
    x[:, 5] *= 300
    x[2] *= 64
    return {
        "hidden": x,
        "features": x[:, :8].to(torch.bfloat16),
        "residual": (x[0, :4] / 8).to(torch.float16),
        "ids": torch.tensor([[1, 11126, *[49190] * 64, 198, 2683]]),
        "grid": torch.tensor([[1, 16, 16]], dtype=torch.int32),
        "mask": torch.tensor([True] * 20 + [False] * 3),
        "other_name": torch.tensor([7, 255], dtype=torch.uint8),
    }


def digest(tensors: dict[str, torch.Tensor]) -> str:
    parts = hashlib.sha256()
    for name, tensor in tensors.items():
        parts.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        parts.update(bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist()))
    return parts.hexdigest()


@pytest.mark.parametrize("level", FEATURE_LEVELS)
def test_golden_bytes_decode_to_the_same_bits(level: str) -> None:
    wanted, coded = (FOLDER / f"codec_{level}.hex").read_text().split(maxsplit=1)
    assert digest(decode(bytes.fromhex(coded), limits=CodecLimits())) == wanted
    assert digest(decode(encode(boundary(), level), limits=CodecLimits())) == wanted


def test_lossless_golden_bytes_are_the_boundary() -> None:
    assert (FOLDER / "codec_lossless.hex").read_text().split()[0] == digest(boundary())


def test_the_hash_is_that_of_this_version() -> None:
    """Tables changed? Then nodes of before must refuse nodes of now: that is what the hash is for. Pin the new one here."""
    assert (CODEC_VERSION, codec_hash()[:16]) == ("1", (FOLDER / "codec_hash.txt").read_text().strip())


def _write() -> None:
    for level in FEATURE_LEVELS:
        coded = encode(boundary(), level)
        wanted = digest(decode(coded, limits=CodecLimits()))
        lines = [coded.hex()[place : place + 96] for place in range(0, 2 * len(coded), 96)]
        (FOLDER / f"codec_{level}.hex").write_text("\n".join((wanted, *lines)) + "\n")
    (FOLDER / "codec_hash.txt").write_text(codec_hash()[:16] + "\n")


if __name__ == "__main__":
    _write()
