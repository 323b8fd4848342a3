"""The numbers that bound a connection, each with its reason. Both sides set them: gRPC's defaults fit neither side."""

from __future__ import annotations

import resource

KIB = 1024
MIB = 1024 * KIB

CHUNK_BYTES = 16 * KIB
"""A payload's part in one frame: small enough that the receiver can time the link within one payload, and that a token or
a cancel never waits behind a megabyte; large enough that 25 bytes of envelope are under 0.2 %."""

MAX_FRAME_BYTES = 65 * KIB
"""The largest sealed frame. Larger ones are refused before they are opened."""

MAX_MESSAGE_BYTES = 128 * KIB
"""gRPC's receive limit on the data and control plane. Its default of 4 MiB would let a peer make us hold more."""

MAX_LOCAL_MESSAGE_BYTES = 33 * MIB
"""The largest question of a local application: image files of 32 MiB together, and its text."""

MAX_PAYLOAD_BYTES = 64 * MIB
"""The largest payload of one request: the lossless features of 17 tiles of the largest known tower take 38 MiB."""

MAX_SEGMENTS = 64
"""The most segments of one payload, which are tiles of images, a few in one, or at the cut `image` images."""

PREFIX_NAME_BYTES = 8
"""The bytes of a cached prefix's name, made by the device's secret key: nobody can seek images that share one."""

KEEPALIVE_MS = 20_000
"""Below the 30 s after which mobile carriers' NATs forget an idle mapping."""

SERVER_KEEPALIVE_MS = 30_000
"""A server pings only who has been silent for longer than a client's own pings let it be: one ping a connection is enough."""

KEEPALIVE_TIMEOUT_MS = 10_000
"""A peer that does not answer a ping in 10 s is taken for dead: links with 5 s outages are normal here."""

CONNECT_TIMEOUT_S = 10.0
"""To a peer that should be there."""

CONTROL_TIMEOUT_S = 10.0
"""The deadline of one call on the control plane."""

MAX_STANDBY = 16
"""Cloud nodes beside the one in use that a device is told of: each is dialled, and one is enough most of the time."""

FIRST_TOKEN_TIMEOUT_S = 120.0
"""From a payload's last frame to its first token, while no better prediction is known."""

TOKEN_TIMEOUT_S = 60.0
"""Between two tokens of an answer."""

MOST_RETRY_AFTER_S = 60.0
"""Longest time for which a peer that says it has no room is left alone: one that names more may be wrong or hostile, and
asking it again costs one small message."""

MOST_TEXT_LENGTH = 1_000
"""Characters of a peer's sentence, and of its advice, that are shown."""


HANDSHAKE_TIMEOUT_MS = 10_000
"""From a TCP connection to the end of its TLS handshake: who says nothing holds a descriptor no longer (gRPC: 120 s)."""

SESSION_AGE_S = 3_600.0
"""The age of a session after which a device opens another one: other keys, and certificates looked at anew."""

MAX_SESSION_AGE_S = 2 * SESSION_AGE_S
"""The age of a session after which a cloud node takes no further request on it."""

CONNECTION_AGE_MS = 4 * 3_600_000
"""The age of a connection after which gRPC opens another, with the certificates of then. A TLS handshake takes about 3 kB."""

CONNECTION_GRACE_MS = 2 * 3_600_000
"""What then runs on it may last so long: no session of a device that keeps to SESSION_AGE_S is cut."""


MOST_FILES = 2**20
"""A process opens no more, whatever it may."""


def max_connections() -> int:
    """Returns how many connections a port takes, those that have shown no certificate yet among them: half of what the process
    may open.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (MOST_FILES if files == resource.RLIM_INFINITY else min(files, MOST_FILES)) // 2


def client_options(max_message_bytes: int = MAX_MESSAGE_BYTES) -> list[tuple[str, int]]:
    """Returns the gRPC options of a channel that dials out: message sizes, keepalive, reconnection, no proxy."""
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),  # an idle device keeps its NAT mapping
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),  # the default of 2 minutes would outlast every outage
        ("grpc.enable_http_proxy", 0),  # nodes dial addresses of their configuration, never an environment's proxy
    ]


RECEIVE_WINDOW_BYTES = 512 * 1024
"""What gRPC takes of a call before it is read. Its own choice grows with the rate to many MiB, which no budget counts; this
lets 40 Mbit/s through at a round trip of 100 ms."""


def server_options(max_message_bytes: int = MAX_MESSAGE_BYTES) -> list[tuple[str, int]]:
    """Returns the gRPC options of a server: windows, message sizes, and how often a client may ping."""
    return [
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", RECEIVE_WINDOW_BYTES),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", SERVER_KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            KEEPALIVE_MS // 2,
        ),  # else a client's keepalive counts as abuse
        ("grpc.http2.max_ping_strikes", 3),
        ("grpc.so_reuseport", 0),  # a second server on the same port must fail, not share it
        ("grpc.max_concurrent_streams", 256),  # of one connection
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
        ("grpc.max_allowed_incoming_connections", max_connections()),
        ("grpc.max_connection_age_ms", CONNECTION_AGE_MS),
        ("grpc.max_connection_age_grace_ms", CONNECTION_GRACE_MS),
    ]
