"""The one way in which an answer's tokens come from wherever they are made: an asynchronous iterator with an explicit end.

Everything that a token passes on its way (session, link, attempt, race, run) is one of these and not an async generator:
its state stands in its attributes, and it lets go of what it holds in the moment in which it ends, not when a collector
finds it (docs/adr/0010).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class TokenSource(ABC):
    """Gives an answer's token ids one at a time.

    After the last token, and after an error or a cancellation of `__anext__`, it has closed itself. Whoever leaves
    earlier calls `aclose`. Nobody may ask and close at the same time.
    """

    def __init__(self) -> None:
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        if self._closed:
            raise StopAsyncIteration
        try:
            token_id = await self._next()
        except BaseException:
            await self.aclose()
            raise
        if token_id is None:
            await self.aclose()
            raise StopAsyncIteration
        return token_id

    async def aclose(self) -> None:
        """Lets go of all that is held. Calling it again does nothing."""
        if not self._closed:
            self._closed = True
            await self._close()

    @abstractmethod
    async def _next(self) -> int | None:
        """Returns the next token id; None after the last one."""

    @abstractmethod
    async def _close(self) -> None:
        """Lets go of what is held, wherever the answer stands. Called once."""
