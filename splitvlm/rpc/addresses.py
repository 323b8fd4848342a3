"""Parses addresses `host:port`, which are never compared as strings."""

from __future__ import annotations

import ipaddress
import re

from splitvlm.errors import ConfigError, UsageError
from splitvlm.host_port import host_and_port

MAX_ADDRESS_CHARS = 262  # a DNS name of 253 characters, brackets, a colon and a port
_HOST_NAME = re.compile(
    r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?"
)


def parsed(address: str) -> tuple[str, str]:
    """Returns the host of `host:port`, and the address as gRPC reads it in no other way. Raises UsageError.

    `::1:7442` would be another host at a port of gRPC's choice, and `127.0.0.1:72978` the port 7442.
    """
    host, port = host_and_port(address)
    return host, joined(host, port)


def joined(host: str, port: int) -> str:
    """Returns the address of a port; IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Tells whether what is sent to a host stays on this machine: `localhost`, 127.0.0.0/8 or ::1, also mapped into IPv6.

    A wildcard (0.0.0.0, ::) is not loopback: who listens there is reached from everywhere.
    """
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a DNS name: who answers for it is not known here
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def require_loopback(address: str, key: str) -> None:
    """Raises ConfigError where plaintext would leave the machine. `key` names the setting."""
    host, _ = parsed(address)
    if not is_loopback(host):
        raise ConfigError(
            f"{key} is {address}, which is not loopback, so plaintext is refused.",
            advice="Set security.keys (made by `splitvlm keys issue`) and leave security.plaintext false.",
        )


def is_wildcard(host: str) -> bool:
    """Tells whether a host to listen on means every address of the machine: 0.0.0.0, ::, and their other spellings."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in ("", "*", "0")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_unspecified


def require_dialable(address: str) -> None:
    """Raises UsageError unless another machine could dial the address: it names one host, and a port from 1."""
    if len(address) > MAX_ADDRESS_CHARS:
        raise UsageError(f"An address of {len(address)} characters is too long.")
    host, port = host_and_port(address)
    if port == 0:
        raise UsageError(
            f"'{address}' cannot be dialled: port 0 is invalid.", advice="Name the port that the node listens on."
        )
    if is_wildcard(host):
        raise UsageError(
            f"'{address}' cannot be dialled: it stands for every address of a machine.",
            advice="Name the host by which others reach the node.",
        )
    if not _is_host(host):
        raise UsageError(f"'{address}' is not an address.", advice="An address is host:port, e.g. 10.0.0.7:7442.")


def _is_host(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_multicast
    except ValueError:
        return _HOST_NAME.fullmatch(host) is not None
