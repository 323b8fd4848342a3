"""From a request's payload to tensors: what an engine takes. Each size is booked before what it names is made.

Features are decoded in turn with the engine's sequences, pictures are opened in the pictures' lane.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from PIL import Image

from cloud_node.engine.prefix_cache import PrefixEntry, images_bytes
from cloud_node.engine.protocol import JobTimes, SequenceRequest
from cloud_node.worker.admission import MemoryReservation
from cloud_node.worker.runtime import Runtime
from splitvlm.codec.boundary import decoding_bytes
from splitvlm.codec.limits import CodecLimits
from splitvlm.codec.picture import decode_picture, inspect_coded_picture
from splitvlm.domain import IMAGE, Conversation, Plan
from splitvlm.errors import PrefixEvicted, UsageError
from splitvlm.model.boundary import HIDDEN, IDS, TYPES, Boundary, boundary_bytes, joined, to_tensors, without_data
from splitvlm.model.boundary_checks import check_shapes, check_step_shape, check_tile_shapes
from splitvlm.model.prompt import Prompt
from splitvlm.model.sampling import check_crossing
from splitvlm.rpc.conversation import conversation_of
from splitvlm.rpc.sampling import sampling_of
from splitvlm.wire.v1.data_pb2 import Begin

T = TypeVar("T")

MAX_PICTURE_PIXELS = 64 * 2**20  # 8192 x 8192: above every known model's input


class PromptCount(NamedTuple):
    """Counts a prompt's tokens, those of its images among them, and those that need not be run."""

    tokens: int = 0
    image_tokens: int = 0
    cached_tokens: int = 0


class Payload:
    """Makes tensors of one request's payload, as its segments come in: tiles and images are decoded one by one."""

    def __init__(
        self,
        runtime: Runtime,
        device: str,
        begin: Begin,
        segments: asyncio.Queue[bytes],
        reservation: MemoryReservation,
        known: PrefixEntry | None,
    ) -> None:
        """Takes in `known` what an earlier prompt left that this one goes on from.

        Raises UsageError for invalid sampling, and for what is no conversation.
        """
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
        self._conversation = conversation_of(begin.conversation) if self._cut == IMAGE else None
        self._limits = CodecLimits()
        self.images: tuple[Image.Image, ...] = ()  # of the prompt, where another may begin alike
        self.prompt = PromptCount()
        self.decode_s = 0.0
        self.queue_s = 0.0

    async def request(self, *, keep_prefix: bool) -> SequenceRequest:
        """Returns the request, with all of its tensors or those of the first tile.

        Raises ProtocolError and UsageError for what is invalid, CapacityError where its memory is not free.
        """
        if self._conversation is not None:
            return self._request(await self._from_images(self._conversation), keep_prefix)
        if self._num_segments == 1:
            data = await self._segments.get()
            return self._request(await self._from_boundary(data), keep_prefix)
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
        self.prompt = self._counted(inputs, known)
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

    def _counted(self, inputs: dict[str, torch.Tensor], known: PrefixEntry | None) -> PromptCount:
        """Returns how many tokens the prompt has. Raises PrefixEvicted for one that does not begin as the known one."""
        ids = inputs["input_ids"][0] if self._conversation is not None else inputs.get(IDS)
        if ids is None:  # at lm:k
            types = inputs.get(TYPES)
            return PromptCount(len(inputs[HIDDEN]), int(types.sum()) if types is not None else 0, 0)
        num_cached = known.prefix.num_shared(ids) if known is not None else 0
        if known is not None and not num_cached:
            raise PrefixEvicted("The prompt does not begin as the cached one did.", advice="Send all of it.")
        return PromptCount(len(ids), int((ids == self._part.model.config.image_token_id).sum()), num_cached)

    async def _from_boundary(self, data: bytes) -> Boundary:
        outline = self._codec.outline(self._cut, data)
        check_shapes(self._part, self._cut, without_data(outline))
        self._reservation.more(decoding_bytes(outline))
        boundary = await self._decoded(lambda: to_tensors(self._codec.decode(self._cut, data)))
        if self._known is not None and self._begin.prefix_tokens:
            boundary[IDS] = torch.cat([_first_ids(self._known, self._begin.prefix_tokens), boundary[IDS]])
        return boundary

    async def _from_images(self, conversation: Conversation) -> dict[str, torch.Tensor]:
        """Returns the processor's tensors at the cut `image`: of the images that are cached and of those that come."""
        images = list(self._known.images) if self._known is not None else []
        for image in images:
            self._reservation.more(self._part.preparation_bytes(*image.size))
        num_to_come = conversation.num_images - len(images)
        if num_to_come < 0 or max(num_to_come, 1) != self._num_segments:
            raise UsageError(f"The conversation shows {conversation.num_images} images, but others came with it.")
        for _ in range(self._num_segments):
            data = await self._segments.get()
            if num_to_come:
                images.append(await self._image(data))
        prompt = Prompt(conversation, tuple(images))
        self.images = prompt.images if self._begin.prefix else ()
        return await self._prepared(lambda: self._part.inputs(prompt))

    async def _image(self, data: bytes) -> Image.Image:
        header = await self._prepared(partial(inspect_coded_picture, data, max_pixels=MAX_PICTURE_PIXELS))
        self._reservation.more(max(header.decoded_bytes, self._part.preparation_bytes(header.width, header.height)))
        return await self._prepared(partial(decode_picture, data, max_pixels=MAX_PICTURE_PIXELS))

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
    def images_bytes(self) -> int:
        """Returns the bytes of the images that are kept."""
        return images_bytes(self.images)


def _first_ids(entry: PrefixEntry, count: int) -> torch.Tensor:
    """Returns the first ids of a cached prompt and its answer. Raises PrefixEvicted where there are not so many."""
    ids = entry.prefix.ids_P[:count].cpu()
    if (num_more := count - len(ids)) > len(entry.answer_ids):
        raise PrefixEvicted("The cached prompt is shorter than this one says.", advice="Send all of it.")
    return torch.cat([ids, torch.tensor(entry.answer_ids[:num_more], dtype=torch.int64)])
