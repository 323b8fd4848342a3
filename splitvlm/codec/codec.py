"""The codec of one model: the levels that every model has, and those that its calibration adds.

It works on numpy arrays, so that a device without torch encodes; `splitvlm.model.boundary` is the door to torch's tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from splitvlm.codec import boundary, calibration_file, levels
from splitvlm.codec.boundary import TensorOutline
from splitvlm.codec.dtypes import Arrays
from splitvlm.codec.klt import Basis
from splitvlm.codec.levels import KLT_STEPS
from splitvlm.codec.limits import CodecLimits
from splitvlm.codec.picture import picture_levels
from splitvlm.domain import IMAGE, Cut
from splitvlm.errors import UsageError


class Codec:
    """Codes boundaries and pictures. Both nodes of a session hold the same codec: `hash` is compared in the handshake."""

    def __init__(self, bases: Mapping[Cut, Basis] | None = None, calibration_hash: str = "") -> None:
        self._bases = dict(bases or {})
        self.hash = hashlib.sha256(f"{levels.codec_hash()} {calibration_hash}".encode()).hexdigest()

    @classmethod
    def from_file(cls, path: Path | None) -> Codec:
        """Returns a codec with the calibration in `path`, or without one. Raises UsageError."""
        return cls() if path is None else cls(*calibration_file.read(path))

    def levels(self, cut: Cut) -> tuple[str, ...]:
        """Returns the levels at a cut, lossless first."""
        plain = picture_levels() if cut == IMAGE else levels.levels_of(cut)
        return (*plain, *KLT_STEPS) if cut in self._bases else plain

    @property
    def channels(self) -> dict[Cut, int]:
        """Returns how many channels the tensors of each calibrated cut have."""
        return {cut: basis.transform.channels for cut, basis in self._bases.items()}

    def basis(self, cut: Cut) -> Basis:
        """Returns what calibration learned of a cut. Raises UsageError where there is none."""
        if cut not in self._bases:
            raise UsageError(f"The cut {cut} is not calibrated.", advice="`splitvlm calibrate MODEL` does that.")
        return self._bases[cut]

    def check(self, cut: Cut, level: str) -> None:
        """Raises UsageError, naming the known levels."""
        if level not in self.levels(cut):
            known = ", ".join(self.levels(cut))
            raise UsageError(f"The cut {cut} has no codec level '{level}'.", advice=f"Its levels are {known}.")

    def encode(self, cut: Cut, tensors: Arrays, level: str) -> bytes:
        """Returns the boundary at `cut` as bytes. Raises UsageError."""
        self.check(cut, level)
        return boundary.encode(tensors, level, self._bases.get(cut))

    def outline(self, cut: Cut, data: bytes, limits: CodecLimits | None = None) -> dict[str, TensorOutline]:
        """Returns dtypes and shapes of what `decode` would return: nothing is decoded. Raises ProtocolError."""
        return boundary.outline(data, limits=limits or CodecLimits(), basis=self._bases.get(cut))

    def decode(self, cut: Cut, data: bytes, limits: CodecLimits | None = None) -> Arrays:
        """Returns the boundary at `cut` from a peer's bytes. Raises ProtocolError."""
        return boundary.decode(data, limits=limits or CodecLimits(), basis=self._bases.get(cut))
