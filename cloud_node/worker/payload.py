"""From a request's payload to tensors: what an engine takes. Each size is booked before what it names is made.

Features are decoded in turn with the engine's sequences, pictures are opened in the pictures' lane.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import torch
from PIL import Image

from cloud_node.engine.prefix_cache import PrefixEntry, picture_bytes
from cloud_node.engine.protocol import JobTimes, SequenceRequest
from cloud_node.worker.admission import MemoryReservation
from cloud_node.worker.runtime import Runtime
from splitvlm.codec.boundary import decoding_bytes
from splitvlm.codec.limits import CodecLimits
from splitvlm.codec.picture import decode_picture, inspect_coded_picture
from splitvlm.domain import IMAGE, Plan
from splitvlm.model.boundary import Boundary, boundary_bytes, joined, to_tensors, without_data
from splitvlm.model.boundary_checks import check_again_shapes, check_shapes, check_step_shape, check_tile_shapes
from splitvlm.model.sampling import check_crossing
from splitvlm.rpc.sampling import sampling_of
from splitvlm.wire.v1.data_pb2 import Begin

T = TypeVar("T")

MAX_PICTURE_PIXELS = 64 * 2**20  # 8192 x 8192: above every known model's input


class Payload:
    """Makes tensors of one request's payload, as its segments come in; those of a picture in tiles are decoded one by one."""

    def __init__(
        self,
        runtime: Runtime,
        device: str,
        begin: Begin,
        segments: asyncio.Queue[bytes],
        reservation: MemoryReservation,
        known: PrefixEntry | None,
    ) -> None:
        """Takes in `known` what an earlier question left of the same picture. Raises UsageError for invalid sampling."""
        self._runtime = runtime
        plan = Plan.parse(begin.plan)
        self._part, self._codec = runtime.part, runtime.codec_of(plan)
        self._device = device
        self._begin = begin
        self._cut = plan.cut
        self._sampling = sampling_of(begin)
        check_crossing(self._part.model, self._cut, self._sampling)
        self._segments = segments
        self._num_segments = begin.segments or 1
        self._reservation = reservation
        self._known = known
        self._limits = CodecLimits()
        self.picture: Image.Image | None = None  # that was opened, where it may be asked about again
        self.decode_s = 0.0
        self.queue_s = 0.0

    async def request(self, *, keep_prefix: bool) -> SequenceRequest:
        """Returns the request, with all of its tensors or those of the first tile.

        Raises ProtocolError and UsageError for what is invalid, CapacityError where its memory is not free.
        """
        if self._num_segments == 1:
            return self._request(await self._whole(await self._segments.get()), keep_prefix)
        first = await self._tile(first=True)
        if self._runtime.engine.prefills_by_tile:
            return self._request(first, keep_prefix, num_tiles=self._num_segments)
        tiles = [first, *[await self.next_tile() for _ in range(self._num_segments - 1)]]
        self._reservation.more(sum(map(boundary_bytes, tiles)))  # joined beside them
        return self._request(await self._decoded(lambda: joined(tiles)), keep_prefix)

    async def next_tile(self) -> Boundary:
        """Returns the next tile, decoded. Raises ProtocolError, CapacityError, UsageError."""
        return await self._tile(first=False)

    def step(self, data: bytes) -> Boundary:
        """Decodes the boundary of one token, at `lm:k`. Raises ProtocolError."""
        check_step_shape(self._part, without_data(self._codec.outline(self._cut, data)))
        return to_tensors(self._codec.decode(self._cut, data))

    def _request(self, inputs: dict[str, torch.Tensor], keep_prefix: bool, num_tiles: int = 1) -> SequenceRequest:
        known, self._known = self._known, None  # the engine lets go of the prefix when the prompt was read
        return SequenceRequest(
            device=self._device,
            cut=self._cut,
            inputs=inputs,
            max_new_tokens=self._begin.max_new_tokens,
            num_tiles=num_tiles,
            prefix=known.prefix if known is not None else None,
            keep_prefix=keep_prefix,
            sampling=self._sampling,
            resume_token_ids=tuple(self._begin.resume_token_ids),
        )

    def _whole(self, data: bytes) -> Awaitable[dict[str, torch.Tensor]]:
        if self._known is not None:
            return self._from_question(self._known.picture, data)
        return self._from_picture(data) if self._cut == IMAGE else self._from_boundary(data)

    async def _from_boundary(self, data: bytes) -> Boundary:
        outline = self._codec.outline(self._cut, data)
        check_shapes(self._part, self._cut, without_data(outline))
        self._reservation.more(decoding_bytes(outline))
        return await self._decoded(lambda: to_tensors(self._codec.decode(self._cut, data)))

    async def _from_picture(self, data: bytes) -> dict[str, torch.Tensor]:
        header = await self._prepared(partial(inspect_coded_picture, data, max_pixels=MAX_PICTURE_PIXELS))
        self._reservation.more(max(header.decoded_bytes, self._part.preparation_bytes(header.width, header.height)))

        def opened() -> tuple[dict[str, torch.Tensor], Image.Image]:
            picture = decode_picture(data, max_pixels=MAX_PICTURE_PIXELS)
            return self._part.inputs(picture, self._begin.question), picture

        inputs, picture = await self._prepared(opened)
        self.picture = picture if self._begin.picture else None
        return inputs

    async def _from_question(self, picture: Image.Image | None, data: bytes) -> Boundary:
        """Returns the prompt's ids of another question. At the cut `image` they are made here, from the cached picture."""
        if picture is not None:
            self._reservation.more(self._part.preparation_bytes(*picture.size))
            return await self._prepared(lambda: self._part.prompt(picture, self._begin.question))
        outline = self._codec.outline(self._cut, data)
        check_again_shapes(self._part, without_data(outline))
        self._reservation.more(decoding_bytes(outline))
        return await self._decoded(lambda: to_tensors(self._codec.decode(self._cut, data)))

    async def _tile(self, *, first: bool) -> Boundary:
        """Returns the next tile, decoded within what its forerunners left of the limits."""
        data = await self._segments.get()
        outline = self._codec.outline(self._cut, data, self._limits)
        check_tile_shapes(self._part, self._cut, without_data(outline), first=first)
        held_bytes = self._reservation.num_bytes
        self._reservation.more(decoding_bytes(outline))
        tile = await self._decoded(lambda: to_tensors(self._codec.decode(self._cut, data, self._limits)))
        self._reservation.become(held_bytes + boundary_bytes(tile))
        for tensor in tile.values():
            self._limits = self._limits.less(tensor.numel(), tensor.nbytes)
        return tile

    async def _decoded(self, work: Callable[[], T]) -> T:
        return self._timed(*await self._runtime.engine.in_turn(self._device, work))

    async def _prepared(self, work: Callable[[], T]) -> T:
        return self._timed(*await self._runtime.pictures.run(self._device, work))

    def _timed(self, result: T, times: JobTimes) -> T:
        self.decode_s += times.busy_s
        self.queue_s += times.queue_s
        return result

    @property
    def picture_bytes(self) -> int:
        """Returns the bytes of the picture that is kept."""
        return picture_bytes(self.picture) if self.picture is not None else 0
