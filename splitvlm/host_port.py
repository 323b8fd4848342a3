"""Divides addresses `host:port`. It imports nothing, so that programs that only dial are quick to start."""

from __future__ import annotations

from splitvlm.errors import UsageError


def host_and_port(address: str) -> tuple[str, int]:
    """Divides `127.0.0.1:7442` or `[::1]:7442` in its two parts. Raises UsageError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(
            f"'{address}' is not an address.",
            advice="An address is host:port, e.g. 127.0.0.1:7442; ports end at 65535.",
        )
    return host.strip("[]"), int(port)
