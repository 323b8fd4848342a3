"""One request in the cloud: its payload as it comes in, then its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from PIL import Image

from cloud_node.admission import Hold
from cloud_node.memory import Kept, Shelf
from cloud_node.worker import Spent, Worker
from splitvlm.codec import decode_picture
from splitvlm.codec.codec import Codec
from splitvlm.domain import IMAGE, Cut, CutKind, Plan
from splitvlm.errors import Forgotten, ProtocolError, UsageError
from splitvlm.model.parts import CloudPart, UpperRun
from splitvlm.rpc.limits import PICTURE_NAME_BYTES
from splitvlm.wire.v1.data_pb2 import Begin, CloudFrame, End, Receipt, Token

MAX_PICTURE_PIXELS = 64 * 2**20  # 8192 x 8192: above every known model's input


@dataclass
class Upload:
    """A payload that is coming in. Sizes are believed only after they were checked."""

    begin: Begin
    max_payload_bytes: int
    parts: list[bytes] = field(default_factory=list)
    received: int = 0
    wire_bytes: int = 0
    first_s: float = 0.0
    last_s: float = 0.0

    def __post_init__(self) -> None:
        least = 0 if self.begin.again else 1
        if not least <= self.begin.payload_bytes <= self.max_payload_bytes:
            raise UsageError(
                f"A payload of {self.begin.payload_bytes} bytes is not taken; the limit is {self.max_payload_bytes}.",
                advice="Choose a smaller codec level, a deeper cut, or raise limits.max_payload_bytes.",
            )

    def add(self, part: bytes, wire_bytes: int) -> None:
        """Take the next part. Raises ProtocolError when there is more than was declared."""
        now_s = time.perf_counter()
        self.first_s = self.first_s or now_s
        self.last_s = now_s
        self.received += len(part)
        self.wire_bytes += wire_bytes
        if self.received > self.begin.payload_bytes:
            raise ProtocolError("The peer sent more than the payload that it declared.")
        self.parts.append(part)

    @property
    def complete(self) -> bool:
        return self.received == self.begin.payload_bytes

    def receipt(self) -> CloudFrame:
        span_us = int(1e6 * (self.last_s - self.first_s))
        return CloudFrame(receipt=Receipt(bytes=self.wire_bytes, span_us=span_us))


class Answering:
    """Runs the upper part of one request on the worker and yields its frames. Dropping it frees its caches."""

    def __init__(
        self,
        part: CloudPart,
        codec: Codec,
        worker: Worker,
        upload: Upload,
        steps: asyncio.Queue[bytes],
        shelf: Shelf,
        hold: Hold,
    ) -> None:
        begin = upload.begin
        self._part = part
        self._codec = codec
        self._worker = worker
        self._cut = Cut.parse(begin.cut)
        self._plan = Plan(self._cut, begin.level)
        self._question = begin.question
        self._max_new_tokens = begin.max_new_tokens
        self._given = list(begin.given)
        self._payload = b"".join(upload.parts)
        self._steps = steps
        self._shelf = shelf
        self._hold = hold
        self._name = begin.picture
        self._picture: Image.Image | None = None
        self._end = End()
        codec.check(self._cut, begin.level)
        if self._cut not in part.cuts:
            known = ", ".join(map(str, part.cuts))
            raise UsageError(f"This cloud node does not serve the cut {self._cut}.", advice=f"It serves {known}.")
        self._known = self._remembered() if begin.again else None

    def _remembered(self) -> Kept:
        kept = self._shelf.get(self._name)
        if kept is None or kept.plan != self._plan:
            raise Forgotten("The cloud node does not remember this picture.", advice="Send it again.")
        return kept

    async def frames(self) -> AsyncGenerator[CloudFrame, None]:
        run, spent = await self._worker.run(self._shelf.device, self._decode)
        self._count("decode_us", spent)
        self._hold.more(run.cache_bytes)
        token, spent = await self._worker.run(self._shelf.device, run.first, self._taken(0))
        self._count("prefill_us", spent)
        self._end.remembered = self._remember(run)
        if not self._given:
            yield CloudFrame(token=Token(id=token))
        count = 1
        while not run.finished:
            step = await self._steps.get() if self._cut.kind is CutKind.LM else None
            token, spent = await self._worker.run(self._shelf.device, self._next, run, step, self._taken(count))
            self._count("tokens_us", spent)
            count += 1
            if count > len(self._given):
                yield CloudFrame(token=Token(id=token))
        self._end.reason = End.REASON_LENGTH if count == self._max_new_tokens else End.REASON_EOS
        yield CloudFrame(end=self._end)

    def _decode(self) -> UpperRun:
        """From bytes to a run that is ready for its prefill."""
        if self._known is not None:
            return self._decode_again(self._known)
        if self._cut == IMAGE:
            self._picture = decode_picture(self._payload, max_pixels=MAX_PICTURE_PIXELS)
            return self._part.upper_from_picture(self._picture, self._question, self._max_new_tokens)
        boundary = self._codec.decode(self._cut, self._payload)
        return self._part.upper(self._cut, boundary, self._max_new_tokens)

    def _decode_again(self, known: Kept) -> UpperRun:
        if known.picture is not None:
            prompt = self._part.prompt(known.picture, self._question)
        else:
            prompt = self._codec.decode(self._cut, self._payload)
        return self._part.again(known.prefix, prompt, self._max_new_tokens)

    def _remember(self, run: UpperRun) -> bool:
        if self._known is not None:
            return True
        prefix = run.prefix() if len(self._name) == PICTURE_NAME_BYTES else None
        return prefix is not None and self._shelf.put(self._name, Kept(self._plan, prefix, self._picture))

    def _next(self, run: UpperRun, step: bytes | None, given: int | None) -> int:
        return run.next(None if step is None else self._codec.decode(self._cut, step), given)

    def _taken(self, place: int) -> int | None:
        """The token at this place of the answer, where another node chose it."""
        return self._given[place] if place < len(self._given) else None

    def _count(self, field_name: str, spent: Spent) -> None:
        setattr(self._end, field_name, getattr(self._end, field_name) + int(1e6 * spent.busy_s))
        self._end.queue_us += int(1e6 * spent.queue_s)
