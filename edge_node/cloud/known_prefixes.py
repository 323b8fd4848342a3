"""Knows which pictures one cloud node keeps a prefix of, as far as it told, and under which names."""

from __future__ import annotations

import hmac
import os
import struct
from collections import OrderedDict

from PIL import Image

from splitvlm.domain import Plan
from splitvlm.files.pictures import to_rgb
from splitvlm.rpc.limits import PICTURE_NAME_BYTES

MOST_NAMES = 1_000  # kept here; what the cloud node keeps of the pictures is for it to say


class KnownPrefixes:
    """Names pictures by a keyed hash of their pixels. The key is another one for each cloud node.

    So names tell nobody which pictures are alike.
    """

    def __init__(self) -> None:
        self._naming_key = os.urandom(32)
        self._plans: OrderedDict[bytes, Plan] = OrderedDict()

    def name_of(self, picture: Image.Image) -> bytes:
        """Returns the name, of 8 bytes, by which the cloud node may keep the picture's prefix."""
        size = struct.pack("<II", *picture.size)
        return hmac.digest(self._naming_key, size + to_rgb(picture).tobytes(), "sha256")[:PICTURE_NAME_BYTES]

    def plan_of(self, picture_name: bytes) -> Plan | None:
        """Returns the plan under which the node keeps the picture's prefix; None where it does not."""
        return self._plans.get(picture_name)

    def add(self, picture_name: bytes, plan: Plan) -> None:
        """Notes that the node keeps the picture's prefix."""
        self._plans[picture_name] = plan
        while len(self._plans) > MOST_NAMES:
            self._plans.popitem(last=False)

    def forget(self, picture_name: bytes) -> None:
        """Notes that the node does not keep the picture's prefix any more."""
        self._plans.pop(picture_name, None)
