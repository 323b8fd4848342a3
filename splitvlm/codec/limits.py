"""Bounds what a decoder accepts. Every size that a peer declares is held against these before anything is allocated for it."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class CodecLimits:
    """Bounds one coded boundary. The defaults hold a prompt of 4,096 tokens, 4,096 channels wide, in float32.

    Decoding takes at most about 48 bytes for each element and each received byte, whatever a peer sends (tested): runs of
    integers are the worst, float32 features take 12 to 14.
    """

    max_tensors: int = 16
    max_dims: int = 6
    max_elements: int = 1 << 24  # of all tensors together
    max_decoded_bytes: int = 1 << 26  # of all tensors together, in their own dtypes

    def less(self, elements: int, decoded_bytes: int) -> CodecLimits:
        """Returns the limits that are left after a tensor of that size."""
        return replace(
            self,
            max_elements=self.max_elements - elements,
            max_decoded_bytes=self.max_decoded_bytes - decoded_bytes,
        )
