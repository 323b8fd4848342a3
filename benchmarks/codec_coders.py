"""The coders that `codec.py` holds against one another, and what a request's messages weigh."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import zstandard
from PIL import Image

from splitvlm.codec.codec import Codec
from splitvlm.codec.levels import KLT_STEPS
from splitvlm.domain import IMAGE, Conversation, Cut, CutKind
from splitvlm.model.boundary import HIDDEN, IDS, to_arrays, to_tensors
from splitvlm.rpc.request_sizes import upload_bytes
from splitvlm.scenes.scene import EDGE

PLAIN = ("int4", "int3", "int2")  # levels of this codec that need no calibration
KEPT = (0.9, 0.75, 0.5)
PICTURES = {
    "jpeg": (75, 50, 30, 20, 12),
    "webp": (75, 50, 25, 10, 1),
    "avif": (55, 45, 35, 25, 15),
}
SCALES = (1.0, 0.625, 0.375)
NAME = bytes(8)  # a picture's name, which is sent by default
Array = np.ndarray[Any, Any]
Coded = tuple[int, Array]  # bytes, what is restored


@dataclass(frozen=True)
class Setting:
    cut: str
    coder: str
    name: str


# --- a request's messages on an open session, under the plan of the last one ------------------------------------------


def begin_bytes(payload: float, question: str = "") -> float:
    """Returns the bytes of the sealed messages that carry a payload. A mean of sizes is taken as one."""
    return (
        upload_bytes([round(payload)], Conversation.about(question) if question else None, NAME)
        + payload
        - round(payload)
    )


# --- coders of an array [T, C] ---------------------------------------------------------------------------------------


@functools.cache
def _compressor() -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=12, write_content_size=False, write_checksum=False)


def squeezed(data: bytes) -> int:
    return len(_compressor().compress(data))


def uniform(x_TC: Array, bits: int, axis: int) -> Coded:
    """Makes symmetric codes with one float16 scale along `axis`."""
    top = 2 ** (bits - 1) - 1
    scale = np.maximum(np.abs(x_TC).max(axis=axis, keepdims=True) / top, 1e-6).astype(np.float16).astype(np.float32)
    codes = np.clip(np.round(x_TC / scale), -top - 1, top).astype(np.int8)
    raw = codes.tobytes()
    if bits == 4:
        nibbles = (codes.reshape(-1) & 15).astype(np.uint8)
        raw = ((nibbles[::2] << 4) | nibbles[1::2]).tobytes()
    return squeezed(raw) + squeezed(scale.astype(np.float16).tobytes()), codes * scale


def kept_tokens(num_tokens: int, share: float, seed: int) -> Array:
    return np.sort(np.random.default_rng(seed).permutation(num_tokens)[: max(1, round(share * num_tokens))])


def dropped(x_TC: Array, share: float, seed: int) -> Coded:
    """Its kept tokens follow from the seed: they cost nothing."""
    kept = kept_tokens(len(x_TC), share, seed)
    size, restored = uniform(x_TC[kept], 8, axis=1)
    whole = np.broadcast_to(restored.mean(axis=0), x_TC.shape).copy()
    whole[kept] = restored
    return size, whole


def own(x_TC: Array, codec: Codec, cut: Cut, level: str) -> Coded:
    """Codes at `lm:k` as it is; elsewhere with a prompt beside it, as it crosses, less what the prompt alone takes."""
    boundary = {HIDDEN: torch.from_numpy(np.ascontiguousarray(x_TC))}
    nothing_asked = 0
    if cut.kind is not CutKind.LM:
        template = codec.basis(cut).template
        ids = [*template.before, *template.after]
        boundary = {HIDDEN: boundary[HIDDEN].reshape(_shape(x_TC, cut)), IDS: torch.tensor(ids)}
        nothing_asked = len(template.encode(ids) or b"")
    data = codec.encode(cut, to_arrays(boundary), level)
    return len(data) - nothing_asked, to_tensors(codec.decode(cut, data))[HIDDEN].numpy().reshape(x_TC.shape)


def _shape(x_TC: Array, cut: Cut) -> tuple[int, ...]:
    """Returns the form of the embedded model's boundary: a tower's states stand in tiles."""
    return (1, *x_TC.shape) if cut.kind is CutKind.VISION else x_TC.shape


def coders(codec: Codec, cut: Cut) -> dict[Setting, Callable[[Array, int], Coded]]:
    """Returns all settings at a cut of features: (array, seed) to bytes and what is restored."""
    named: dict[tuple[str, str], Callable[[Array, int], Coded]] = {}
    for level in (*PLAIN, *(level for level in codec.levels(cut) if level in KLT_STEPS)):
        named["splitvlm", level] = functools.partial(
            _seedless, functools.partial(own, codec=codec, cut=cut, level=level)
        )
    for bits in (8, 4):
        code = functools.partial(uniform, bits=bits, axis=1)
        named[f"per-token int{bits} + zstd", f"int{bits}"] = functools.partial(_seedless, code)
    named["per-channel int8 + zstd", "int8"] = functools.partial(_seedless, functools.partial(uniform, bits=8, axis=0))
    for share in KEPT:
        named["random drop + int8 + zstd", f"{share:.0%}"] = functools.partial(_drop, share)
    return {Setting(str(cut), *key): code for key, code in named.items()}


def _seedless(code: Callable[[Array], Coded], x_TC: Array, seed: int) -> Coded:
    return code(x_TC)


def _drop(share: float, x_TC: Array, seed: int) -> Coded:
    return dropped(x_TC, share, seed)


def picture_settings() -> list[tuple[Setting, str, int, int]]:
    rows = []
    for kind, qualities in PICTURES.items():
        for scale in SCALES:
            edge = round(EDGE * scale)
            for quality in qualities:
                rows.append((Setting(str(IMAGE), kind, f"q{quality} {edge} px"), kind.upper(), quality, edge))
    return rows


def picture_coded(image: Image.Image, kind: str, quality: int, edge: int) -> tuple[int, Image.Image]:
    smaller = image if edge == EDGE else image.resize((edge, edge), Image.Resampling.LANCZOS)
    every: dict[str, dict[str, Any]] = {
        "JPEG": {"optimize": True, "progressive": True},
        "WEBP": {"method": 6},
        "AVIF": {"speed": 4},
    }
    store = io.BytesIO()
    smaller.save(store, kind, quality=quality, **every[kind])
    back = Image.open(io.BytesIO(store.getvalue())).convert("RGB")
    return len(store.getvalue()), back if edge == EDGE else back.resize((EDGE, EDGE), Image.Resampling.LANCZOS)
