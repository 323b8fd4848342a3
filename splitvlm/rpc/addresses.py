"""What an address `host:port` means: it is parsed here, never compared as a string."""

from __future__ import annotations

import ipaddress

from splitvlm.errors import ConfigError
from splitvlm.settings import host_and_port


def parsed(address: str) -> tuple[str, str]:
    """The host of `host:port`, and the address as gRPC reads it in no other way. Raises UsageError.

    `::1:7442` would be another host at a port of gRPC's choice, and `127.0.0.1:72978` the port 7442.
    """
    host, port = host_and_port(address)
    return host, joined(host, port)


def joined(host: str, port: int) -> str:
    """The address of a port; IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether what is sent to a host stays on this machine: `localhost`, 127.0.0.0/8 or ::1, also mapped into IPv6.

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
