"""A prefix is what a picture leaves in the language model: enough to read another question without seeing the picture again.

A prompt begins with the chat template's opening and the picture's tokens. Nothing that comes after them changes the caches
of these first tokens, so that another prompt that begins alike can go on from there (P first tokens of T).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from splitvlm.model.boundary import Boundary

if TYPE_CHECKING:
    from transformers import DynamicCache


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """Holds what a prompt up to its picture's last token left in the caches.

    It never changes: runs that go on from it copy it.
    """

    ids_P: torch.Tensor  # int64, up to the picture's last token
    sides: Boundary  # what positions need besides ids (Qwen2.5-VL: `grid`)
    cache: DynamicCache

    @property
    def num_bytes(self) -> int:
        """Returns the bytes that this holds. Slices keep the whole of what they were cut from."""
        tensors = [
            self.ids_P,
            *self.sides.values(),
            *(t for layer in self.cache.layers for t in (layer.keys, layer.values)),
        ]
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    def begins(self, ids_T: torch.Tensor) -> bool:
        """Tells whether a prompt begins so and goes on."""
        length = len(self.ids_P)
        return len(ids_T) > length and torch.equal(ids_T[:length].to(self.ids_P.device), self.ids_P)


def picture_end(ids_T: torch.Tensor, image_token: int) -> int:
    """Returns where the picture's last token ends; 0 without one."""
    image_positions = (ids_T == image_token).nonzero()
    return int(image_positions[-1]) + 1 if len(image_positions) else 0
