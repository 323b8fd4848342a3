"""The two sides that may answer."""

from __future__ import annotations

from enum import StrEnum


class Side(StrEnum):
    """Says who gives a token."""

    CLOUD = "cloud"
    DEVICE = "device"
