"""The two sides that may answer."""

from __future__ import annotations

from enum import StrEnum


class Side(StrEnum):
    """Who gives a token."""

    CLOUD = "cloud"
    DEVICE = "device"
