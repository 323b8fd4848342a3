"""What a decoder accepts. Every size that a peer declares is held against these before anything is allocated for it."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one coded boundary. The defaults hold a prompt of 4,096 tokens, 4,096 channels wide, in float32.

    Decoding holds at most about six times `max_decoded_bytes` at once: codes, scales and the float32 values besides.
    """

    max_tensors: int = 16
    max_dims: int = 6
    max_elements: int = 1 << 25  # of all tensors together
    max_decoded_bytes: int = 1 << 27  # of all tensors together, in their own dtypes

    def less(self, elements: int, decoded_bytes: int) -> Limits:
        """What is left of them after a tensor of that size."""
        return replace(
            self,
            max_elements=self.max_elements - elements,
            max_decoded_bytes=self.max_decoded_bytes - decoded_bytes,
        )
