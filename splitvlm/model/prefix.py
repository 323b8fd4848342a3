"""A prefix is what a prompt leaves in the language model: enough to go on with another prompt that begins alike.

Another question about the same images, or the next turn of a conversation, begins with the same token ids. Nothing that comes
after a prompt's first tokens changes what is cached of them, so that another prompt can go on from there. An image's tokens
are alike whatever the image shows: whoever goes on from a prefix answers for its images, by their pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from splitvlm.model.boundary import Boundary

if TYPE_CHECKING:
    from transformers import DynamicCache


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """Holds what a prompt of P tokens left in the caches.

    It never changes: runs that go on from it copy it.
    """

    ids_P: torch.Tensor  # int64, of the whole prompt
    images_end: int  # where its last image token ends; 0 without images
    num_image_tokens: int
    sides: Boundary  # what positions need besides ids (Qwen2.5-VL: `grid`)
    cache: DynamicCache  # layers with sliding windows whole

    @property
    def num_bytes(self) -> int:
        """Returns the bytes that this holds. Slices keep the whole of what they were cut from."""
        tensors = [
            self.ids_P,
            *self.sides.values(),
            *(t for layer in self.cache.layers for t in (layer.keys, layer.values)),
        ]
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    def num_shared(self, ids_T: torch.Tensor) -> int:
        """Returns how many first tokens another prompt shares, of which one is left to run; 0 where they cut an image off."""
        most = min(len(self.ids_P), len(ids_T) - 1)
        differs = (self.ids_P[:most] != ids_T[:most].to(self.ids_P.device)).nonzero()
        length = int(differs[0]) if len(differs) else most
        return length if length >= self.images_end else 0


def images_end(ids_T: torch.Tensor, image_token: int) -> int:
    """Returns where the last image's tokens end; 0 without one."""
    image_positions = (ids_T == image_token).nonzero()
    return int(image_positions[-1]) + 1 if len(image_positions) else 0


def merged_sides(names: Iterable[str], cached: Boundary, further: Boundary) -> Boundary:
    """Returns the side tensors `names` of a prompt's images, those of the cached ones first: each has a row an image."""
    merged = {}
    for name in names:
        rows = [sides[name] for sides in (cached, further) if name in sides]
        if rows:
            merged[name] = torch.cat(rows)
    return merged
