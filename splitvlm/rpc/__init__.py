"""Channels, servers and status mapping that all nodes share. Knows gRPC; knows no model, no codec and no planning policy."""

import os

# gRPC takes TLS 1.2 too, and has no setting for versions. Its list of cipher suites is that of 1.2 alone: with one in it that
# needs a pre-shared key, which no node has, 1.2 can agree on nothing; 1.3 has its own three. It is read when gRPC first
# makes credentials, which all nodes do through this package.
os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-PSK-CHACHA20-POLY1305"
