"""splitvlm: edge-cloud split inference for vision-language models."""

import os
import sys

# gRPC takes TLS 1.2 too, and has no setting for versions. Its list of cipher suites is that of 1.2 alone: with one in it that
# needs a pre-shared key, which no node has, 1.2 can agree on nothing; 1.3 has its own three. gRPC reads the list when it is
# imported, so it stands here; splitvlm.rpc.servers refuses to listen where gRPC came first with another list.
CIPHER_SUITES = "ECDHE-PSK-CHACHA20-POLY1305"
TLS_1_2_IS_OFF = "grpc" not in sys.modules or os.environ.get("GRPC_SSL_CIPHER_SUITES") == CIPHER_SUITES
os.environ["GRPC_SSL_CIPHER_SUITES"] = CIPHER_SUITES
