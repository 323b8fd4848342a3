"""splitvlm: edge-cloud split inference for vision-language models.

`splitvlm.connect` and `splitvlm.connect_async` ask an edge node from a program; `splitvlm.local` asks a model in this process
(splitvlm.client). They are imported at their first use, so that `import splitvlm` costs nothing. __init__.pyi has the types.
"""

import importlib
import os
import sys
from typing import Any

# gRPC takes TLS 1.2 too, and has no setting for versions. Its list of cipher suites is that of 1.2 alone: with one in it that
# needs a pre-shared key, which no node has, 1.2 can agree on nothing; 1.3 has its own three. gRPC reads the list when it is
# imported, so it stands here; splitvlm.rpc.servers refuses to listen where gRPC came first with another list.
CIPHER_SUITES = "ECDHE-PSK-CHACHA20-POLY1305"
TLS_1_2_IS_OFF = "grpc" not in sys.modules or os.environ.get("GRPC_SSL_CIPHER_SUITES") == CIPHER_SUITES
os.environ["GRPC_SSL_CIPHER_SUITES"] = CIPHER_SUITES

_FIRST_USE = {
    "connect": "splitvlm.client",
    "connect_async": "splitvlm.client",
    "local": "splitvlm.client.in_process",
}


def __getattr__(name: str) -> Any:
    if name not in _FIRST_USE:
        raise AttributeError(f"module 'splitvlm' has no attribute '{name}'")
    return getattr(importlib.import_module(_FIRST_USE[name]), name)
