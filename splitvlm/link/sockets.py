"""The link emulator's sockets: small buffers, so that back-pressure reaches the sender, and resets instead of clean ends."""

from __future__ import annotations

import asyncio
import socket
import struct

from splitvlm.errors import PortError
from splitvlm.link.bottleneck import PACKET_BYTES

SOCKET_BUFFER_BYTES = 16_384  # the kernel doubles it; more would hide the queue from its sender
SENDERS_WINDOW_BYTES = 2_048
"""Receive buffer towards the device. A sender makes segments of half the largest window it has seen, and Linux takes a link on
which no whole one fits for longer than TCP_USER_TIMEOUT (gRPC sets 10 s) for dead, even while parts of them pass. So half
a window must fit into what one read makes free."""
CONNECT_S = 10.0


def listen(address: tuple[str, int]) -> socket.socket:
    """Returns a listening socket that does not block. Raises PortError."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Before listening: accepted sockets inherit them, and the window scale is fixed then.
        _small_buffers(listener, SENDERS_WINDOW_BYTES)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise PortError(
            f"Cannot listen on {address[0]}:{address[1]}: {error.strerror}.", advice="Choose another port, or 0."
        ) from error
    listener.setblocking(False)
    return listener


async def connect(address: tuple[str, int]) -> socket.socket:
    """Returns a connected socket that does not block. Raises OSError, after CONNECT_S TimeoutError."""
    loop = asyncio.get_running_loop()
    candidates = await loop.getaddrinfo(*address, type=socket.SOCK_STREAM)
    family, kind, proto, _, target = candidates[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        _small_buffers(sock)
        tune(sock)
        async with asyncio.timeout(CONNECT_S):
            await loop.sock_connect(sock, target)
    except BaseException:
        sock.close()
        raise
    return sock


def _small_buffers(sock: socket.socket, receive_bytes: int = SOCKET_BUFFER_BYTES) -> None:
    """Sets small buffers and small segments: loopback's of 64 kB would not fit the buffer, and TCP would stall on it."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, PACKET_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)


def tune(sock: socket.socket) -> None:
    """Makes the socket send at once, and not block."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def reset(*sockets: socket.socket) -> None:
    """Closes sockets so that the peers see a reset, and not an end of data that looks complete."""
    for sock in sockets:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
