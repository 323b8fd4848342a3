"""One request: its payload becomes a sequence in the engine, whose tokens are the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import partial

from cloud_node.engine.prefix_cache import PrefixEntry
from cloud_node.engine.protocol import CachedPrefix, Sequence
from cloud_node.worker.admission import MemoryReservation
from cloud_node.worker.payload import Payload
from cloud_node.worker.runtime import Runtime
from splitvlm.domain import CutKind, Plan
from splitvlm.errors import PrefixEvicted, UsageError
from splitvlm.rpc.limits import PREFIX_NAME_BYTES
from splitvlm.wire.v1.data_pb2 import Begin, End


class Answering:
    """Runs one request and yields the answer's tokens; then `end` says what they took.

    Segments of the payload and steps come in by two queues while it runs: tiles are decoded, and read as far as the engine
    allows, while others are on their way. What is made of them is booked on `reservation` before it is made.
    """

    def __init__(
        self,
        runtime: Runtime,
        device: str,
        begin: Begin,
        segments: asyncio.Queue[bytes],
        steps: asyncio.Queue[bytes],
        reservation: MemoryReservation,
    ) -> None:
        """Raises UsageError for a plan that is not served, PrefixEvicted for a prompt whose prefix is gone."""
        self._runtime = runtime
        self._device = device
        self._plan = Plan.parse(begin.plan)
        self._begin = begin
        self._steps = steps
        self._reservation = reservation
        _check_served(runtime, self._plan)
        entry = self._cached_prefix() if begin.prefix_cached else None
        self._answer_ids = list(begin.resume_token_ids)  # so far; the cached prefix of this prompt has them, too
        self._payload = Payload(runtime, device, begin, segments, reservation, entry)
        self.end = End()

    def _cached_prefix(self) -> PrefixEntry:
        entry = self._runtime.prefix_cache.get(self._device, self._begin.cached_prefix or self._begin.prefix)
        if entry is None or entry.plan != self._plan:
            raise PrefixEvicted("The cloud node no longer has the prefix of this prompt.", advice="Send all of it.")
        return entry

    async def tokens(self) -> AsyncGenerator[int, None]:
        """Yields the tokens after those that another node gave. Raises SplitvlmError, and what libraries raise."""
        engine, keep = self._runtime.engine, len(self._begin.prefix) == PREFIX_NAME_BYTES
        request = await self._payload.request(keep_prefix=keep)
        need = engine.memory_needed(request)
        self._reservation.become(need.prefill_bytes + need.cache_bytes + self._payload.images_bytes)
        num_tiles, num_resumed, limit = request.num_tiles, len(request.resume_token_ids), request.max_new_tokens
        sequence = engine.start(request)
        del request  # its tensors are the sequence's, and go when that has read them
        try:
            self.end.prefix_stored = self._store_prefix(await self._prefilled(sequence, num_tiles))
            self._reservation.become(need.cache_bytes)
            await self._feed(sequence, num_resumed)
            async for token_id in sequence:
                self._answer_ids.append(token_id)
                yield token_id
                await self._feed(sequence, 1)
        finally:
            sequence.cancel()
        self.end.reason = End.REASON_LENGTH if len(self._answer_ids) == limit else End.REASON_EOS
        self._count(sequence)

    async def _prefilled(self, sequence: Sequence, num_tiles: int) -> CachedPrefix | None:
        held_bytes = self._reservation.num_bytes
        for _ in range(num_tiles - 1):
            await sequence.read_tile(await self._payload.next_tile())
            self._reservation.become(held_bytes)
        return await sequence.prefill()

    async def _feed(self, sequence: Sequence, num_steps: int) -> None:
        """Hands over the device's next steps where the cut is inside the language model and tokens are to come."""
        if self._plan.cut.kind is CutKind.LM and not sequence.finished:
            for _ in range(num_steps):
                sequence.feed(partial(self._payload.step, await self._steps.get()))

    def _store_prefix(self, prefix: CachedPrefix | None) -> bool:
        """Puts the prompt's prefix into the cache. Returns whether it is there."""
        images, self._payload.images = self._payload.images, ()
        return prefix is not None and self._runtime.prefix_cache.put(
            self._device, self._begin.prefix, PrefixEntry(self._plan, prefix, images, self._answer_ids)
        )

    def _count(self, sequence: Sequence) -> None:
        times, end = sequence.times, self.end
        end.decode_us = int(1e6 * self._payload.decode_s)
        end.queue_us = int(1e6 * (self._payload.queue_s + times.queue_s))
        end.prompt_tokens, end.image_tokens, end.cached_tokens = self._payload.prompt
        end.prefill_us, end.tokens_us = int(1e6 * times.prefill_s), int(1e6 * times.tokens_s)


def check_agreed_variant(plan: Plan, variants: frozenset[str]) -> None:
    """Raises UsageError for a variant that the session's handshake did not agree on."""
    if plan.variant not in variants:
        raise UsageError(
            f"This cloud node does not serve the variant {plan.variant}.",
            advice=f"With this device it serves {', '.join(sorted(variants))}; name the variant's folder in its `variants`.",
        )


def _check_served(runtime: Runtime, plan: Plan) -> None:
    """Raises UsageError naming the level or cut that this node does not serve."""
    runtime.codec_of(plan).check(plan.cut, plan.level)
    cuts = runtime.part.cuts
    if plan.cut not in cuts:
        raise UsageError(
            f"This cloud node does not serve the cut {plan.cut}.", advice=f"It serves {', '.join(map(str, cuts))}."
        )
