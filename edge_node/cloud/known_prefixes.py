"""Knows which prompts' prefixes one cloud node keeps, as far as it told, and under which names.

A prefix is named by the images of its prompt. Going on from one is right because the images are the same, by their pixels and
their order, and because the tokens are: those are compared one by one, here or in the cloud.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from splitvlm.domain import Plan
from splitvlm.files.pictures import to_rgb
from splitvlm.rpc.limits import PREFIX_NAME_BYTES

MOST_NAMES = 1_000  # kept here; what the cloud node keeps is for it to say


@dataclass(frozen=True, slots=True)
class KnownPrefix:
    """Holds what is known of a prefix that a cloud node keeps."""

    name: bytes
    plan: Plan  # under which its images were sent
    num_images: int
    num_image_tokens: int  # that these are in its prompt
    token_ids: tuple[
        int, ...
    ] = ()  # of its prompt and the answer; none at the cut `image`, whose prompts the cloud makes

    def num_shared(self, token_ids: Sequence[int]) -> int:
        """Returns how many first ids another prompt shares with it; one is left."""
        pairs = zip(self.token_ids, token_ids[:-1], strict=False)
        return next(
            (index for index, (a, b) in enumerate(pairs) if a != b), min(len(self.token_ids), len(token_ids) - 1)
        )


class KnownPrefixes:
    """Names prefixes by a keyed hash of their images' pixels. The key is another one for each cloud node.

    So names tell nobody which images are alike.
    """

    def __init__(self) -> None:
        self._naming_key = os.urandom(32)
        self._prefixes: OrderedDict[bytes, KnownPrefix] = OrderedDict()

    def names_of(self, images: Sequence[Image.Image]) -> tuple[bytes, ...]:
        """Returns names of 8 bytes: of all images, by which a node may keep a prefix, then of all but the last, and so on."""
        digests, names = b"", [self._name(b"")] if not images else []
        for image in images:
            size = struct.pack("<II", *image.size)
            digests += hashlib.sha256(size + to_rgb(image).tobytes()).digest()
            names.append(self._name(digests))
        return tuple(reversed(names))

    def find(self, names: Sequence[bytes], plan: Plan | None = None) -> KnownPrefix | None:
        """Returns the prefix of the first of these names that the node keeps one of, under `plan` if that is given."""
        known = (self._prefixes[name] for name in names if name in self._prefixes)
        return next((prefix for prefix in known if plan in (None, prefix.plan)), None)

    def add(self, prefix: KnownPrefix) -> None:
        """Notes that the node keeps a prefix, in place of the one of that name."""
        self._prefixes[prefix.name] = prefix
        self._prefixes.move_to_end(prefix.name)
        while len(self._prefixes) > MOST_NAMES:
            self._prefixes.popitem(last=False)

    def forget(self, name: bytes) -> None:
        """Notes that the node does not keep the prefix any more."""
        self._prefixes.pop(name, None)

    def _name(self, digests: bytes) -> bytes:
        return hmac.digest(self._naming_key, digests, "sha256")[:PREFIX_NAME_BYTES]
