"""The device's part of the model behind one thread, with the emulated slow-down where one is configured. Pictures are opened
in another thread, beside it.

The slow-down is emulation: after each stage the engine waits until the stage took `slowdown` times as long, still holding the
device, so that requests queue as they would on a slower machine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, ParamSpec, TypeVar

from PIL import Image

from edge_node.cloud.cloud_request import Vocabulary
from splitvlm.codec import encode_picture
from splitvlm.codec.codec import Codec
from splitvlm.domain import DEVICE, FULL, GREEDY, Plan, Sampling
from splitvlm.model.boundary import IDS, Boundary
from splitvlm.model.parts import DevicePart, DeviceTokens, LowerRun
from splitvlm.model.prompt import Prompt
from splitvlm.model.sampling import end_token_ids
from splitvlm.variants.device_forms import DeviceForm

LAST_JOB_S = 1.0  # a running job gets so long to end when the node stops
P = ParamSpec("P")
T = TypeVar("T")


class DeviceEngine:
    """Runs stages of the device part. Every method returns its result and the seconds that it took, slow-down included."""

    def __init__(
        self, part: DevicePart, codec: Codec, slowdown: float = 1.0, variants: Mapping[str, DeviceForm] | None = None
    ) -> None:
        """Takes the model's own part and codec, by which prompts are made for all forms, and those of variants by name."""
        self.part = part
        self.codec = codec
        self._forms = {FULL: DeviceForm(part, codec), **(variants or {})}
        self.slowdown = slowdown
        self.vocabulary = Vocabulary(part.spec.vocab_size, end_token_ids(part.model), part.grammars)
        self._model = ThreadPoolExecutor(max_workers=1, thread_name_prefix="torch")
        self._pictures = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pictures")
        self.jobs = 0  # that were begun
        self._unfinished: set[Future[Any]] = (
            set()
        )  # those that wait or run: a caller that goes away does not end its job
        self._endings: set[asyncio.Task[None]] = set()

    @property
    def in_work(self) -> bool:
        """Tells whether a job runs or waits."""
        return bool(self._unfinished)

    def form(self, variant: str) -> DeviceForm:
        """Returns one form of the device's part, and its codec."""
        return self._forms[variant]

    def _finishing(self, variant: str) -> DevicePart:
        """Returns the part that answers on the device alone: the variant's, or that of another form which can."""
        parts = [self.form(variant).part, *(form.part for form in self._forms.values())]
        return next((part for part in parts if DEVICE in part.cuts), parts[0])

    async def measure(self, step: Callable[[], T]) -> T:
        """Runs a step of a measurement in turn with the requests' stages, at the machine's own speed."""
        return await asyncio.wrap_future(self._submitted(self._model, step))

    async def begin(self, prompt: Prompt, plan: Plan, num_cached: int = 0) -> tuple[LowerRun, float]:
        """Prepares a prompt for the plan's cut; no tile is run yet. Raises UsageError.

        Of its first `num_cached` images nothing is run or crosses: the cloud node has them.
        """
        return await self._run(self.form(plan.variant).part.begin, prompt, plan.cut, num_cached)

    async def tile(self, run: LowerRun, index: int) -> tuple[Boundary, float]:
        """Returns what crosses of a tile. The run keeps it: whoever waits may go away and ask again."""
        return await self._run(run.tile, index)

    async def whole(self, run: LowerRun) -> tuple[Boundary, float]:
        """Returns what crosses of all tiles."""
        return await self._run(lambda: run.boundary)

    async def encode(self, boundary: Boundary, plan: Plan) -> tuple[bytes, float]:
        """Returns the boundary coded at the plan's level."""
        return await self._run(self.form(plan.variant).encode, plan.cut, boundary, plan.level)

    async def encode_rest(self, boundary: Boundary, num_shared: int, plan: Plan) -> tuple[tuple[bytes, int], float]:
        """Returns what crosses of a prompt that goes on from a cached prefix, coded, and how many first ids it leaves out.

        They may all be there: what all prompts share is coded in no bytes by a calibrated codec.
        """
        form = self.form(plan.variant)

        def smaller() -> tuple[bytes, int]:
            whole = form.encode(plan.cut, boundary, plan.level)
            if not num_shared:
                return whole, 0
            rest = form.encode(plan.cut, boundary | {IDS: boundary[IDS][num_shared:]}, plan.level)
            return (rest, num_shared) if len(rest) < len(whole) else (whole, 0)

        return await self._run(smaller)

    async def check(self, prompt: Prompt) -> None:
        """Raises UsageError for a prompt that the model's template does not take, or that is too long: before it is sent."""
        await self._run(self.part.check_prompt, prompt)

    async def encode_image(self, image: Image.Image, level: str) -> tuple[bytes, float]:
        """Returns an image, resized as the model reads it, coded for the cut `image`. Raises UsageError."""
        return await self._run(lambda: encode_picture(self.part.picture(image), level))

    async def step(
        self, run: LowerRun, kept: list[bytes], index: int, token_id: int, plan: Plan
    ) -> tuple[bytes, float]:
        """Returns the coded boundary of the answer's token of an index (cuts `lm:k`), from `kept` where it was made before.

        It is kept in the same thread in which it is made: whoever waits for it may go away, the run's caches do not go back.
        """

        def made() -> bytes:
            if index == len(kept):
                kept.append(self.form(plan.variant).encode(plan.cut, run.step(token_id), plan.level))
            return kept[index]

        return await self._run(made)

    async def start(
        self,
        prompt: Prompt,
        max_new_tokens: int,
        resume_token_ids: Sequence[int] = (),
        sampling: Sampling = GREEDY,
        variant: str = FULL,
    ) -> tuple[DeviceTokens, float]:
        """Begins an answer on the device alone (cut `device`), after the tokens that are there already.

        It runs in the form of the variant, or in another one where that one serves other cuts only.
        """
        part = self._finishing(variant)
        return await self._run(part.generate, prompt, max_new_tokens, resume_token_ids, sampling)

    async def go_on(
        self,
        run: LowerRun,
        max_new_tokens: int,
        resume_token_ids: Sequence[int] = (),
        sampling: Sampling = GREEDY,
    ) -> tuple[DeviceTokens, float]:
        """Begins an answer on the device from a lower part that has run (vision:k, tokens): its work is not done again."""
        return await self._run(run.part.go_on, run, max_new_tokens, resume_token_ids, sampling)

    async def next(self, tokens: Iterator[int]) -> tuple[int | None, float]:
        """Returns the next token id of an answer on the device, or None after the last."""
        return await self._run(lambda: next(tokens, None))

    async def aside(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a job that is about pictures and not the model's, beside the model's jobs and one at a time."""
        return await asyncio.wrap_future(self._submitted(self._pictures, partial(job, *args, **kwargs)))

    def once_running_jobs_end(self, then: Callable[[], None]) -> None:
        """Calls `then` when the jobs that run by now have ended: no job can be cut short where its caller has gone."""
        running = [job for job in list(self._unfinished) if job.running()]
        if not running:
            then()
            return

        async def ended() -> None:
            await asyncio.gather(*map(asyncio.wrap_future, running), return_exceptions=True)
            then()

        task = asyncio.create_task(ended())
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    def close(self) -> bool:
        """Ends the threads, and waits a little for the jobs that run. Returns whether they have ended."""
        for thread in (self._model, self._pictures):
            thread.shutdown(wait=False, cancel_futures=True)
        return not wait(self._unfinished, LAST_JOB_S).not_done

    def _submitted(self, thread: ThreadPoolExecutor, job: Callable[[], T]) -> Future[T]:
        self.jobs += 1
        future = thread.submit(job)
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)
        return future

    async def _run(self, stage: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, float]:
        def timed() -> tuple[T, float]:
            started_s = time.perf_counter()
            result = stage(*args, **kwargs)
            took_s = time.perf_counter() - started_s
            if self.slowdown > 1:
                time.sleep((self.slowdown - 1) * took_s)
            return result, took_s * self.slowdown

        return await asyncio.wrap_future(self._submitted(self._model, timed))
