"""`splitvlm ask`: one question to the edge node, the answer as it comes."""

from __future__ import annotations

import sys
from pathlib import Path

from splitvlm.crypto.identity import Identity
from splitvlm.errors import UsageError
from splitvlm.rpc.local import LocalClient
from splitvlm.wire.v1 import local_pb2 as pb

MAX_PICTURE_BYTES = 32 * 2**20


def read_picture_file(path: Path) -> bytes:
    """The file's bytes. Raises UsageError where it is missing, a folder, or too large; the node checks the format."""
    try:
        size = path.stat().st_size
        if size > MAX_PICTURE_BYTES:
            raise UsageError(
                f"{path} has {size} bytes; a picture has at most {MAX_PICTURE_BYTES}.", advice="Shrink it."
            )
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"Cannot read the picture {path}: {error.strerror}.") from error


async def ask_once(
    picture: Path,
    question: str,
    address: str,
    identity: Identity | None,
    plan: str,
    max_new_tokens: int,
    *,
    verbose: bool,
) -> None:
    """Ask, stream the answer to standard output, and say what happened on standard error if asked."""
    data = read_picture_file(picture)
    client = LocalClient(address, identity)
    try:
        await client.connect()
        async for answer in client.ask(data, question, max_new_tokens=max_new_tokens, plan=plan):
            match answer.WhichOneof("body"):
                case "text":
                    print(answer.text, end="", flush=True)
                case "account" if verbose:
                    print(flush=True)
                    print(describe(answer.account), file=sys.stderr)
        if not verbose:
            print(flush=True)
    finally:
        await client.close()


def describe(account: pb.Account) -> str:
    """An account in one line."""
    emulated = f", emulated slow-down {account.emulated_slowdown:g} x" if account.emulated_slowdown > 1 else ""
    known = ", picture remembered" if account.again else ""
    return (
        f"plan {account.plan}{known}, {account.bytes_sent} bytes sent, first token {account.first_token_s * 1e3:.0f} ms, "
        f"total {account.total_s * 1e3:.0f} ms (device {account.device_s * 1e3:.0f}, encode {account.encode_s * 1e3:.0f}, "
        f"upload {account.upload_s * 1e3:.0f}, decode {account.decode_s * 1e3:.0f}, queue {account.queue_s * 1e3:.0f}, "
        f"prefill {account.prefill_s * 1e3:.0f}, tokens {account.tokens_s * 1e3:.0f}){emulated}"
    )
