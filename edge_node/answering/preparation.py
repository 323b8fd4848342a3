"""The device's work for one question: makes what crosses and keeps it, or goes on from it on the device alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from PIL import Image

from edge_node.answering.progress import CloudProgress, Milestone
from edge_node.answering.question import PlannedQuestion
from edge_node.answering.report import RequestReport
from edge_node.cloud.exchange import PromptCount
from edge_node.cloud.known_prefixes import KnownPrefix
from edge_node.cloud.payload import NextStep, Payload
from edge_node.cloud.segments import Segments
from edge_node.engine import DeviceEngine
from splitvlm.domain import IMAGE, CutKind, Plan
from splitvlm.model.parts import LowerRun


class Preparation:
    """Runs the lower part once, whoever needs it: the payload is kept for a cloud node that takes over.

    What makes the payload does not refer to this object, which holds it: in such a circle the tensors of each question would
    stay until the garbage collector's next full pass.
    """

    def __init__(
        self,
        engine: DeviceEngine,
        question: PlannedQuestion,
        report: RequestReport,
        progress: CloudProgress,
        book: Callable[[int], None],
    ) -> None:
        """`book` books memory of the device for the question. It raises CapacityError and UsageError."""
        self._engine = engine
        self._question = question
        self._report = report
        self._progress = progress
        self._book = book
        self._lower: LowerRun | None = None
        self._payload: Payload | None = None

    async def payload(self) -> Payload:
        """Returns what crosses of the prompt; its first segment is made."""
        if self._payload is None:
            of_images = self._question.plan.cut == IMAGE
            self._payload = await (self._of_images() if of_images else self._of_boundary())
        return self._payload

    async def payload_after(self, cached: KnownPrefix) -> Payload | None:
        """Returns what crosses where the cloud node has a prefix; None where the device cannot go on from it."""
        if self._question.plan.cut == IMAGE:
            return await self._of_images(cached)
        return await self._of_rest(cached)

    async def begin_alone(self, resume_token_ids: Sequence[int]) -> tuple[Iterator[int], float]:
        """Returns the tokens that follow on the device alone, and the seconds of their beginning.

        It goes on from the lower part where that has run. Keys and values are booked before they are made.
        """
        run, question = self._lower, self._question
        if run is not None and run.can_finish_here:
            tokens, took_s = await self._engine.go_on(run, question.max_new_tokens, resume_token_ids, question.sampling)
        else:
            tokens, took_s = await self._engine.start(
                question.prompt,
                question.max_new_tokens,
                resume_token_ids,
                question.sampling,
                question.plan.variant,
            )
        self._book(tokens.cache_bytes)
        self._report.prompt = PromptCount(tokens.num_prompt_tokens, tokens.num_image_tokens)
        return tokens, took_s

    async def _of_images(self, cached: KnownPrefix | None = None) -> Payload:
        question, plan = self._question, self._question.plan
        prompt = question.prompt
        await self._engine.check(prompt)
        images = prompt.images[cached.num_images if cached is not None else 0 :]
        make = partial(_coded_image, self._engine, images, plan, self._report)
        segments = Segments(len(images), make) if images else Segments.of()
        await segments.segment(0)
        return Payload(plan, segments, conversation=prompt.conversation, cached=cached, num_images=len(prompt.images))

    async def _of_rest(self, cached: KnownPrefix) -> Payload | None:
        """Returns the payload behind a prefix: the prompt's other ids, and what crosses of images that the prefix lacks."""
        question, plan = self._question, self._question.plan
        run, began_s = await self._engine.begin(question.prompt, plan, cached.num_images)
        if run.num_cached_image_tokens != cached.num_image_tokens:  # the model reads an image otherwise beside others
            return None
        boundary, tiles_s = await self._engine.whole(run)
        prompt_ids = tuple(run.ids_T.tolist())
        num_shared = cached.num_shared(prompt_ids)
        (data, left_out), coded_s = await self._engine.encode_rest(boundary, num_shared, plan)
        self._report.device_s, self._report.encode_s = began_s + tiles_s, coded_s
        return Payload(
            plan,
            Segments.of(data),
            cached=cached,
            prefix_tokens=left_out,
            num_images=len(question.prompt.images),
            prompt_ids=prompt_ids,
        )

    async def _of_boundary(self) -> Payload:
        question, plan = self._question, self._question.plan
        run, self._report.device_s = await self._engine.begin(question.prompt, plan)
        self._book(run.cache_bytes(question.max_new_tokens))
        self._lower = run
        make = partial(_segment, self._engine, run, plan, self._report, self._progress)
        segments = Segments(run.num_tiles, make)
        await segments.segment(0)
        step = _stepper(self._engine, run, plan, self._report) if plan.cut.kind is CutKind.LM else None
        return Payload(
            plan,
            segments,
            step=step,
            num_images=len(question.prompt.images),
            prompt_ids=() if plan.cut.kind is CutKind.LM else tuple(run.ids_T.tolist()),
        )


async def _coded_image(
    engine: DeviceEngine, images: Sequence[Image.Image], plan: Plan, report: RequestReport, index: int
) -> bytes:
    """Makes the segment of one image, at the cut `image`."""
    data, encode_s = await engine.encode_image(images[index], plan.level)
    report.encode_s += encode_s
    return data


async def _segment(
    engine: DeviceEngine, run: LowerRun, plan: Plan, report: RequestReport, progress: CloudProgress, index: int
) -> bytes:
    """Makes the segment of one tile: the tower runs on while what was made before is on its way."""
    boundary, tile_s = await engine.tile(run, index)
    report.device_s += tile_s
    data, encode_s = await engine.encode(boundary, plan)
    report.encode_s += encode_s
    if index == run.num_tiles - 1:
        progress.advance(Milestone.LEFT_DEVICE)
    return data


def _stepper(engine: DeviceEngine, run: LowerRun, plan: Plan, report: RequestReport) -> NextStep:
    kept: list[bytes] = []  # for a node that takes over: the run itself cannot go back

    async def step(index: int, token_id: int) -> bytes:
        data, step_s = await engine.step(run, kept, index, token_id, plan)
        report.device_tokens_s += step_s
        return data

    return step
