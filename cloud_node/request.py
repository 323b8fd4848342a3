"""One request in the cloud: from its payload to its answer's tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import ParamSpec, TypeVar

from PIL import Image

from cloud_node.admission import MemoryReservation
from cloud_node.prefix_cache import DevicePrefixCache, PrefixEntry, picture_bytes
from cloud_node.worker import Spent, Worker
from splitvlm.codec.boundary import decoding_bytes
from splitvlm.codec.codec import Codec
from splitvlm.codec.limits import CodecLimits
from splitvlm.codec.picture import decode_picture, inspect_coded_picture
from splitvlm.domain import FULL, IMAGE, CutKind, Plan
from splitvlm.errors import PrefixEvicted, UsageError
from splitvlm.model.boundary import Boundary, boundary_bytes, joined
from splitvlm.model.boundary_checks import check_again_shapes, check_shapes, check_step_shape, check_tile_shapes
from splitvlm.model.parts import CloudPart, UpperRun
from splitvlm.model.tiles import in_tiles
from splitvlm.rpc.limits import PICTURE_NAME_BYTES
from splitvlm.wire.v1.data_pb2 import Begin, End

P = ParamSpec("P")
T = TypeVar("T")

MAX_PICTURE_PIXELS = 64 * 2**20  # 8192 x 8192: above every known model's input
VARIANTS = (FULL,)
"""Variants of devices' parts that this node's upper part goes on from."""


class Answering:
    """Runs the upper part of one request on the worker and yields the answer's tokens; then `end` says what they took.

    `parts` gives the payload's as they are complete: those of a picture in tiles are decoded, and
    run as far as the family allows, while others are on their way. What is made of them is booked on `hold` before it is made.
    """

    def __init__(
        self,
        part: CloudPart,
        codec: Codec,
        worker: Worker,
        begin: Begin,
        parts: asyncio.Queue[bytes],
        steps: asyncio.Queue[bytes],
        prefix_cache: DevicePrefixCache,
        reservation: MemoryReservation,
    ) -> None:
        self._part = part
        self._codec = codec
        self._worker = worker
        self._plan = Plan.parse(begin.plan)
        self._cut = self._plan.cut
        self._question = begin.question
        self._max_new_tokens = begin.max_new_tokens
        self._resume_token_ids = list(begin.resume_token_ids)
        self._parts = parts
        self._num_segments = begin.segments or 1
        self._limits = CodecLimits()
        self._steps = steps
        self._prefix_cache = prefix_cache
        self._reservation = reservation
        self._name = begin.picture
        self._picture: Image.Image | None = None  # at the cut `image`, until it is remembered
        self.end = End()
        _check_served(part, codec, self._plan)
        self._known = self._remembered() if begin.prefix_cached else None

    def _remembered(self) -> PrefixEntry:
        kept = self._prefix_cache.get(self._name)
        if kept is None or kept.plan != self._plan:
            raise PrefixEvicted("The cloud node does not remember this picture.", advice="Send it again.")
        return kept

    async def tokens(self) -> AsyncGenerator[int, None]:
        run = await self._arrived()
        token = await self._timed("prefill_us", run.first, self._taken(0))
        self.end.remembered = self._remember(run)
        self._reservation.become(run.cache_bytes)
        if not self._resume_token_ids:
            yield token
        count = 1
        while not run.finished:
            step = await self._steps.get() if self._cut.kind is CutKind.LM else None
            token = await self._timed("tokens_us", self._next, run, step, self._taken(count))
            count += 1
            if count > len(self._resume_token_ids):
                yield token
        self.end.reason = End.REASON_LENGTH if count == self._max_new_tokens else End.REASON_EOS

    async def _arrived(self) -> UpperRun:
        """From bytes to a run that is ready for its prefill, or for the rest of it."""
        if self._num_segments > 1:
            return await self._from_tiles()
        payload = await self._parts.get()
        if self._known is not None:
            run = await self._from_question(self._known, payload)
        elif self._cut == IMAGE:
            run = await self._from_picture(payload)
        else:
            run = await self._from_boundary(payload)
        kept_bytes = picture_bytes(self._picture) if self._picture else 0
        self._reservation.become(run.input_bytes + run.cache_bytes + kept_bytes)
        return run

    async def _from_boundary(self, payload: bytes) -> UpperRun:
        outline = self._codec.outline(self._cut, payload)
        check_shapes(self._part, self._cut, outline)
        self._reservation.more(decoding_bytes(outline))

        def decoded() -> UpperRun:
            return self._part.upper(self._cut, self._codec.decode(self._cut, payload), self._max_new_tokens)

        return await self._timed("decode_us", decoded)

    async def _from_picture(self, payload: bytes) -> UpperRun:
        header = await self._prepared(partial(inspect_coded_picture, payload, max_pixels=MAX_PICTURE_PIXELS))
        self._reservation.more(max(header.decoded_bytes, self._part.preparation_bytes(header.width, header.height)))

        def opened() -> tuple[UpperRun, Image.Image]:
            picture = decode_picture(payload, max_pixels=MAX_PICTURE_PIXELS)
            return self._part.upper_from_picture(picture, self._question, self._max_new_tokens), picture

        run, picture = await self._prepared(opened)
        self._picture = picture if self._name else None
        return run

    async def _from_question(self, known: PrefixEntry, payload: bytes) -> UpperRun:
        """Another question about a remembered picture. At the cut `image` its prompt is made here, from the picture."""
        picture = known.picture
        if picture is not None:
            self._reservation.more(self._part.preparation_bytes(*picture.size))
            prompt = await self._prepared(lambda: self._part.prompt(picture, self._question))
        else:
            outline = self._codec.outline(self._cut, payload)
            check_again_shapes(self._part, outline)
            self._reservation.more(decoding_bytes(outline))
            prompt = await self._timed("decode_us", self._codec.decode, self._cut, payload)
        return self._part.prefix_cached(known.prefix, prompt, self._max_new_tokens)

    async def _from_tiles(self) -> UpperRun:
        first = await self._tile(first=True)
        running = await self._timed("decode_us", in_tiles, self._part, self._cut, first, self._max_new_tokens)
        if running is None:
            tiles = [first, *[await self._tile(first=False) for _ in range(self._num_segments - 1)]]
            self._reservation.more(sum(map(boundary_bytes, tiles)))  # joined beside them
            run = await self._timed(
                "decode_us", lambda: self._part.upper(self._cut, joined(tiles), self._max_new_tokens)
            )
            self._reservation.become(run.input_bytes + run.cache_bytes)
            return run
        self._reservation.become(running.input_bytes + running.cache_bytes)
        await self._timed("prefill_us", running.begin)
        for _ in range(self._num_segments - 1):
            held = self._reservation.num_bytes
            await self._timed("prefill_us", running.add, await self._tile(first=False))
            self._reservation.become(held)
        return running

    async def _tile(self, *, first: bool) -> Boundary:
        """The next, decoded within what its forerunners left of the limits."""
        data = await self._parts.get()
        outline = self._codec.outline(self._cut, data, self._limits)
        check_tile_shapes(self._part, self._cut, outline, first=first)
        held = self._reservation.num_bytes
        self._reservation.more(decoding_bytes(outline))
        tile = await self._timed("decode_us", self._codec.decode, self._cut, data, self._limits)
        self._reservation.become(held + boundary_bytes(tile))
        for tensor in tile.values():
            self._limits = self._limits.less(tensor.numel(), tensor.nbytes)
        return tile

    async def _timed(self, counted: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        result, spent = await self._worker.run(self._prefix_cache.device, work, *args, **kwargs)
        self._count(counted, spent)
        return result

    async def _prepared(self, work: Callable[[], T]) -> T:
        result, spent = await self._worker.prepare(self._prefix_cache.device, work)
        self._count("decode_us", spent)
        return result

    def _remember(self, run: UpperRun) -> bool:
        picture, self._picture = self._picture, None
        if self._known is not None:
            return True
        prefix = run.prefix() if len(self._name) == PICTURE_NAME_BYTES else None
        return prefix is not None and self._prefix_cache.put(self._name, PrefixEntry(self._plan, prefix, picture))

    def _next(self, run: UpperRun, step: bytes | None, resume_token_id: int | None) -> int:
        if step is None:
            return run.next(None, resume_token_id)
        check_step_shape(self._part, self._codec.outline(self._cut, step))
        return run.next(self._codec.decode(self._cut, step), resume_token_id)

    def _taken(self, place: int) -> int | None:
        """The token at this place of the answer, where another node chose it."""
        return self._resume_token_ids[place] if place < len(self._resume_token_ids) else None

    def _count(self, field_name: str, spent: Spent) -> None:
        setattr(self.end, field_name, getattr(self.end, field_name) + int(1e6 * spent.busy_s))
        self.end.queue_us += int(1e6 * spent.queue_s)


def _check_served(part: CloudPart, codec: Codec, plan: Plan) -> None:
    """Raises UsageError naming the variant, level or cut that this node does not serve."""
    if plan.variant not in VARIANTS:
        raise UsageError(
            f"This cloud node does not serve the variant {plan.variant}.", advice=f"It serves {', '.join(VARIANTS)}."
        )
    codec.check(plan.cut, plan.level)
    if plan.cut not in part.cuts:
        known = ", ".join(map(str, part.cuts))
        raise UsageError(f"This cloud node does not serve the cut {plan.cut}.", advice=f"It serves {known}.")
