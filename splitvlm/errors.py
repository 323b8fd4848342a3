"""The error tree: what can go wrong, in words for people.

    SplitvlmError
    ├── ConfigError          exit 2   a wrong key, value or file in a configuration
    ├── UsageError           exit 2   a wrong argument: unknown model, cut that a model lacks, no picture, ...
    ├── KeysError            exit 3   a certificate or key is missing, expired or not ours
    ├── PortError            exit 4   a port cannot be listened on
    ├── PeerUnavailable      exit 5   the other node does not answer
    ├── HandshakeRefused     exit 6   both nodes answer, but differ in protocol, weights, processor or codec
    ├── PermissionRefused    exit 6   the peer's role does not allow the call
    ├── PrivacyRefused       exit 6   the plan would let out more of a picture than the edge node's `privacy` section allows
    ├── ProtocolError        exit 7   a message breaks the protocol, or does not open under its key
    ├── CapacityError        exit 8   the other node is full; try again later
    ├── DeadlineExceeded     exit 9   no answer in time
    ├── Cancelled            exit 10  the request was given up by its caller, or a node is stopping
    └── PrefixEvicted        exit 5   a prompt's prefix is not cached any more; devices send all of it by themselves

Each error has a stable `code` (it crosses the wire as the gRPC trailer `splitvlm-error`), the gRPC status that it maps to,
an exit code, one public sentence, and optional advice. Detail that could tell a peer about us goes to the log, never here.
"""

from __future__ import annotations

from typing import ClassVar


class SplitvlmError(Exception):
    """Is the base of all errors that people may see. `str()` is the sentence, then the advice.

    `from_peer` says that another node claims it: a node beside that one may say otherwise.
    """

    code: ClassVar[str] = "internal"
    grpc_status: ClassVar[str] = "INTERNAL"  # a name of grpc.StatusCode, so that this module needs no gRPC
    exit_code: ClassVar[int] = 1

    def __init__(self, sentence: str, *, advice: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.advice = advice
        self.from_peer = False

    def __str__(self) -> str:
        return f"{self.sentence} {self.advice}".strip()


class ConfigError(SplitvlmError):
    code = "config"
    grpc_status = "FAILED_PRECONDITION"
    exit_code = 2


class UsageError(SplitvlmError):
    code = "usage"
    grpc_status = "INVALID_ARGUMENT"
    exit_code = 2


class KeysError(SplitvlmError):
    code = "keys"
    grpc_status = "UNAUTHENTICATED"
    exit_code = 3


class PortError(SplitvlmError):
    code = "port"
    grpc_status = "UNAVAILABLE"
    exit_code = 4


class PeerUnavailable(SplitvlmError):
    code = "peer-unavailable"
    grpc_status = "UNAVAILABLE"
    exit_code = 5


class HandshakeRefused(SplitvlmError):
    code = "handshake-refused"
    grpc_status = "FAILED_PRECONDITION"
    exit_code = 6


class PermissionRefused(SplitvlmError):
    code = "permission-refused"
    grpc_status = "PERMISSION_DENIED"
    exit_code = 6


class PrivacyRefused(SplitvlmError):
    code = "privacy"
    grpc_status = "PERMISSION_DENIED"
    exit_code = 6


class ProtocolError(SplitvlmError):
    code = "protocol"
    grpc_status = "DATA_LOSS"
    exit_code = 7


class CapacityError(SplitvlmError):
    """Says in `retry_after_s` when asking again may help; 0 where nobody knows."""

    code = "capacity"
    grpc_status = "RESOURCE_EXHAUSTED"
    exit_code = 8

    def __init__(self, sentence: str, *, advice: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(sentence, advice=advice)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(SplitvlmError):
    code = "deadline"
    grpc_status = "DEADLINE_EXCEEDED"
    exit_code = 9


class Cancelled(SplitvlmError):
    code = "cancelled"
    grpc_status = "CANCELLED"
    exit_code = 10


class PrefixEvicted(SplitvlmError):
    code = "prefix-evicted"
    grpc_status = "NOT_FOUND"
    exit_code = 5


def all_errors() -> tuple[type[SplitvlmError], ...]:
    """Returns every leaf of the tree, by which the wire's code is turned back into an error."""
    return tuple(SplitvlmError.__subclasses__())


def first_sentence(error: BaseException) -> str:
    """Returns the first sentence of what a library says, as the end of one of ours."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.partition(". ")[0].rstrip(".") + "."
