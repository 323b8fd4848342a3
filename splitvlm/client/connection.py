"""Connections to an edge node: one for programs with an event loop, one for those without."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from splitvlm.client.answers import Answer, AsyncAnswer
from splitvlm.client.loop_thread import LoopThread
from splitvlm.client.messages import ChatMessage, ImageLike, asked, chat
from splitvlm.client.options import Options
from splitvlm.crypto.identity import Identity, load_identity
from splitvlm.rpc.local_client import EdgeClient

ADDRESS = "127.0.0.1:7443"
KEYS = Path("keys/app")
Images = str | ImageLike | Sequence[str | ImageLike]
Wrong = type[BaseException] | None


class AsyncConnection:
    """Asks one edge node: `async with splitvlm.connect_async(...) as vlm`."""

    def __init__(self, address: str, identity: Identity | None) -> None:
        self._address = address
        self._identity = identity
        self._client: EdgeClient | None = None

    async def __aenter__(self) -> Self:
        """Dials. Raises PeerUnavailable."""
        self._client = EdgeClient(self._address, self._identity)
        try:
            await self._client.connect()
        except BaseException:
            await self._client.close()
            raise
        return self

    async def __aexit__(self, kind: Wrong, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._edge.close()

    def ask(self, images: Images, question: str, **options: Unpack[Options]) -> AsyncAnswer:
        """Asks one question about an image, or about several in their order. Raises UsageError for what is no image."""
        conversation, files = asked(images, question)
        return AsyncAnswer(self._edge.ask(conversation, files, **options))

    def chat(self, messages: Iterable[ChatMessage], **options: Unpack[Options]) -> AsyncAnswer:
        """Asks for the answer to a conversation, whose last message is the user's. Raises UsageError."""
        conversation, files = chat(messages)
        return AsyncAnswer(self._edge.ask(conversation, files, **options))

    @property
    def _edge(self) -> EdgeClient:
        assert self._client is not None, "a connection is used within its `with`"
        return self._client


class Connection:
    """Asks one edge node: `with splitvlm.connect(...) as vlm`. Several threads may ask at once."""

    def __init__(self, address: str, identity: Identity | None) -> None:
        self._connection = AsyncConnection(address, identity)
        self._thread: LoopThread | None = None

    def __enter__(self) -> Self:
        """Dials. Raises PeerUnavailable."""
        self._thread = LoopThread()
        try:
            self._thread.run(self._connection.__aenter__())
        except BaseException:
            self._thread.close()
            raise
        return self

    def __exit__(self, kind: Wrong, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.run(self._connection.__aexit__(kind, error, trace))
        self._loop.close()

    def ask(self, images: Images, question: str, **options: Unpack[Options]) -> Answer:
        """Asks one question about an image, or about several in their order. Raises UsageError for what is no image."""
        return Answer(self._connection.ask(images, question, **options), self._loop)

    def chat(self, messages: Iterable[ChatMessage], **options: Unpack[Options]) -> Answer:
        """Asks for the answer to a conversation, whose last message is the user's. Raises UsageError."""
        return Answer(self._connection.chat(messages, **options), self._loop)

    @property
    def _loop(self) -> LoopThread:
        assert self._thread is not None, "a connection is used within its `with`"
        return self._thread


def connect(address: str = ADDRESS, *, keys: Path | str = KEYS, plaintext: bool = False) -> Connection:
    """Returns a connection to the edge node at an address, with the keys of this application. Raises KeysError.

    `plaintext` uses no TLS; it is allowed on loopback only, and the node must have been told so, too.
    """
    return Connection(address, None if plaintext else load_identity(Path(keys)))


def connect_async(address: str = ADDRESS, *, keys: Path | str = KEYS, plaintext: bool = False) -> AsyncConnection:
    """Returns a connection for a program with an event loop, as `connect` does for others. Raises KeysError."""
    return AsyncConnection(address, None if plaintext else load_identity(Path(keys)))
