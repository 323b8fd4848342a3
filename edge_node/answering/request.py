"""One question from its arrival to its account: lower part, encoding, the wire, the answer's tokens.

A hedged question has two runs: the plan's own, and the device alone beside it. The device's run begins when the plan has left
the device (it must not delay the upload), and goes on from the plan's lower part where it can. The cloud answers from its
first token on, unless the device has finished by then.

A cloud node that fails loses nothing (law 3): the payload was kept, and goes with the tokens that are there already to a
standby, while the device begins to finish by itself; the first of them to give the next token goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from PIL import Image

from edge_node.answering.hedge import Side, first_to_answer
from edge_node.answering.report import Fault, RequestReport
from edge_node.cloud.link import CloudLink
from edge_node.cloud.payload import NextStep, Payload
from edge_node.cloud.segments import Segments
from edge_node.engine import Engine
from edge_node.privacy import PrivacyDoor
from splitvlm.domain import DEVICE, IMAGE, CutKind, Plan
from splitvlm.errors import (
    Cancelled,
    CapacityError,
    ConfigError,
    PeerUnavailable,
    PrefixEvicted,
    SplitvlmError,
    UsageError,
)
from splitvlm.model.parts import LowerRun

_log = logging.getLogger("splitvlm.edge.request")
PAUSES = 3  # times that a node without room is waited for, where nobody else can answer,
MOST_PAUSE_S = 10.0  # and for how long each time
_OWN_FAULT = (UsageError, ConfigError, Cancelled)  # where the device says so: every node would say the same


class Request:
    """Runs one question under one plan, which it keeps to its end (law 3)."""

    def __init__(
        self,
        engine: Engine,
        link: CloudLink | None,
        plan: Plan,
        image: Image.Image,
        question: str,
        max_new_tokens: int,
        *,
        privacy: PrivacyDoor,
        hedge_after_s: float | None = None,
        picture_name: bytes = b"",
        standby: Sequence[CloudLink] = (),
        finish_alone: bool = False,
        silence_timeout_s: float | None = None,
        on_fault: Callable[[CloudLink], None] = lambda _link: None,
    ) -> None:
        """`hedge_after_s` after its start the device begins beside the plan, if no token has come; None: never.

        Under `picture_name` the cloud node may remember the picture; empty: it may not. When the link's node fails, or is
        silent for `silence_timeout_s`, `standby` take over, each once, and where it may, the device (`finish_alone`).
        """
        self._engine = engine
        self._link = link
        self._standby = list(standby)
        self._alone = finish_alone
        self._silence_timeout_s = silence_timeout_s
        self._on_fault = on_fault
        self._privacy = privacy
        self._image = image
        self._question = question
        self._max_new_tokens = max_new_tokens
        self._hedge_after_s = hedge_after_s
        self._picture_name = picture_name
        self._lower: LowerRun | None = None
        self._made: Payload | None = None  # kept until the end, for a node that takes over
        self._left_device = asyncio.Event()  # the payload is made, or will not be
        self._gave_up = asyncio.Event()  # no token will come from the cloud any more
        self._pauses = 0
        self._started_s = time.perf_counter()
        self.report = RequestReport(plan, engine.slowdown)

    async def tokens(self) -> AsyncGenerator[int, None]:
        """The answer's token ids as they come, each once; the account is complete when it ends."""
        source = self._source()
        while True:
            try:
                async with contextlib.aclosing(source) as tokens:
                    async for token in tokens:
                        if not self.report.token_ids:
                            self.report.first_token_s = self._elapsed_s()
                        self._recovered()
                        self.report.token_ids.append(token)
                        yield token
                break
            except SplitvlmError as error:
                source = self._taken_over(error)
        self._recovered()
        self.report.total_s = self._elapsed_s()

    def _source(self) -> AsyncGenerator[int, None]:
        if self.report.plan.cut == DEVICE:
            self.report.answered_by = Side.DEVICE
            return self._on_device()
        if self._hedge_after_s is not None:
            return self._raced({Side.CLOUD: self._with_cloud(), Side.DEVICE: self._beside()})
        self.report.answered_by = Side.CLOUD
        return self._with_cloud()

    def _taken_over(self, error: SplitvlmError) -> AsyncGenerator[int, None]:
        """Returns the rest of the answer from those who are left. Raises the error where nobody is and tokens are missing."""
        link, on_device = self._link, self.report.plan.cut == DEVICE
        resume_token_ids = tuple(self.report.token_ids)
        if not self._may_leave:
            self._standby.clear()
        complete = self._engine.vocabulary.ends(resume_token_ids, self._max_new_tokens)
        others = complete or bool(self._standby or self._alone)
        pause_s = 0.0 if others else self._worth_waiting_s(error)
        own_fault = isinstance(error, _OWN_FAULT) and not error.from_peer
        if own_fault or link is None or on_device or not (others or pause_s):
            raise error
        exchange = self.report.exchange
        now_s = time.perf_counter()
        silent_s = now_s - (exchange.heard_s or self._started_s)
        fault = Fault(
            error.code, error.sentence, link.address, len(resume_token_ids), silent_s, now_s - self._started_s
        )
        self.report.faults.append(fault)
        _log.warning(
            "%s failed: %s",
            link.peer,
            error.sentence,
            extra={"request": self.report.request_id, "tokens": len(resume_token_ids)},
        )
        if self._may_leave:
            self._on_fault(link)
        if complete:
            return _nothing()
        exchange.restart()
        self.report.prefix_cached = False  # whoever takes over gets it all
        sides = {}
        if pause_s:
            sides[Side.CLOUD] = self._later(pause_s, resume_token_ids)
        if self._standby:
            self._link = self._standby.pop(0)
            sides[Side.CLOUD] = self._with_cloud(resume_token_ids)
        if self._alone:
            self._alone = Side.CLOUD in sides  # by itself it is the last resort
            sides[Side.DEVICE] = self._on_device(resume_token_ids)
        return self._raced(sides)

    @property
    def _may_leave(self) -> bool:
        return self._privacy.allows(self.report.plan)

    def _worth_waiting_s(self, error: SplitvlmError) -> float:
        """How long until the same node is asked again, which nobody can replace; 0: it is not. A few times only."""
        if (
            not isinstance(error, CapacityError)
            or not 0 < error.retry_after_s <= MOST_PAUSE_S
            or self._pauses == PAUSES
        ):
            return 0.0
        self._pauses += 1
        return error.retry_after_s * random.uniform(
            1.0, 1.5
        )  # devices that were refused together must not return together

    async def _later(self, pause_s: float, resume_token_ids: Sequence[int]) -> AsyncGenerator[int, None]:
        await asyncio.sleep(pause_s)
        async with contextlib.aclosing(self._with_cloud(resume_token_ids)) as tokens:
            async for token in tokens:
                yield token

    def _recovered(self) -> None:
        if self.report.faults and not self.report.faults[-1].recovery_s:
            self.report.faults[-1].recovery_s = self._elapsed_s() - self.report.faults[-1].at_s

    async def _raced(self, sides: dict[Side, AsyncGenerator[int, None]]) -> AsyncGenerator[int, None]:
        async with contextlib.aclosing(first_to_answer(sides)) as tokens:
            async for side, token in tokens:
                self.report.answered_by = side
                yield token
        if self.report.answered_by is Side.DEVICE and self._link is not None and self._may_leave:
            self._link.open_ahead()

    async def _beside(self) -> AsyncGenerator[int, None]:
        """The answer from the device alone, once its time has come."""
        assert self._hedge_after_s is not None
        await self._left_device.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._hedge_after_s - self._elapsed_s())):
                await self._gave_up.wait()
        self.report.hedged = True
        tokens, self.report.hedge_s = await self._begin_alone()
        held: list[int] = []  # until the answer is complete: the cloud's, if it comes, is finished sooner
        while True:
            token, took_s = await self._engine.next(tokens)
            self.report.hedge_s += took_s
            if token is not None:
                held.append(token)
            if token is None or self._gave_up.is_set():
                for ready in held:
                    yield ready
                held.clear()
            if token is None:
                return

    async def _begin_alone(self, resume_token_ids: Sequence[int] = ()) -> tuple[Iterator[int], float]:
        run = self._lower
        if run is not None and run.cut.kind is not CutKind.LM:
            return await self._engine.go_on(run, self._max_new_tokens, resume_token_ids)
        return await self._engine.start(self._image, self._question, self._max_new_tokens, resume_token_ids)

    async def _on_device(self, resume_token_ids: Sequence[int] = ()) -> AsyncGenerator[int, None]:
        tokens, began_s = await self._begin_alone(resume_token_ids)
        token, first_s = await self._engine.next(tokens)
        self.report.device_s += began_s + first_s
        while token is not None:
            yield token
            token, took_s = await self._engine.next(tokens)
            self.report.device_tokens_s += took_s

    async def _with_cloud(self, resume_token_ids: Sequence[int] = ()) -> AsyncGenerator[int, None]:
        try:
            async with contextlib.aclosing(self._from_cloud(resume_token_ids)) as tokens:
                async for token in tokens:
                    yield token
        finally:
            self._left_device.set()
            self._gave_up.set()

    async def _from_cloud(self, resume_token_ids: Sequence[int]) -> AsyncGenerator[int, None]:
        link = self._link
        if link is None:
            raise PeerUnavailable(
                "No cloud node is known.", advice="Set `cloud` or `orchestrator` in the edge node's configuration."
            )
        try:
            if link.known(self._picture_name) == self.report.plan:
                try:
                    async with contextlib.aclosing(
                        self._exchanged(link, await self._prompt_alone(resume_token_ids))
                    ) as tokens:
                        async for token in tokens:
                            self.report.prefix_cached = True
                            yield token
                    return
                except PrefixEvicted:  # told before the first token: the picture goes once more
                    self.report.exchange.restart()
            async with contextlib.aclosing(self._exchanged(link, await self._payload(resume_token_ids))) as tokens:
                async for token in tokens:
                    yield token
        finally:
            exchange = self.report.exchange
            self.report.upload_s = max(0.0, exchange.upload_elapsed_s - link.estimate().rtt_s)

    async def _exchanged(self, link: CloudLink, payload: Payload) -> AsyncGenerator[int, None]:
        """One attempt, and the only way from here to a cloud node. Raises PrivacyRefused before anything is sent."""
        self._privacy.check(payload.plan)
        if not self._privacy.may_be_remembered:
            payload = replace(payload, picture=b"")
        if payload.segments.complete:
            self._left_device.set()
        async with contextlib.aclosing(link.answer(payload, self.report.exchange)) as tokens:
            async for token in tokens:
                self.report.answered_node = link.address
                yield token

    async def _prompt_alone(self, resume_token_ids: Sequence[int]) -> Payload:
        """For a picture that the cloud node remembers."""
        plan = self.report.plan
        if plan.cut == IMAGE:
            return self._of(Segments.of(b""), resume_token_ids, question=self._question, prefix_cached=True)
        data, self.report.device_s = await self._engine.prompt(self._image, self._question, plan)
        return self._of(Segments.of(data), resume_token_ids, prefix_cached=True)

    async def _payload(self, resume_token_ids: Sequence[int]) -> Payload:
        plan, report = self.report.plan, self.report
        if self._made is not None:
            return replace(self._made, resume_token_ids=resume_token_ids)
        if plan.cut == IMAGE:
            data, report.encode_s = await self._engine.encode_picture(self._image, plan.level)
            self._made = self._of(Segments.of(data), resume_token_ids, question=self._question)
            return self._made
        run, report.device_s = await self._engine.begin(self._image, self._question, plan)
        self._lower = run
        parts = Segments(run.num_tiles, partial(self._part, run))
        await parts.part(0)
        step = self._stepper(run) if plan.cut.kind is CutKind.LM else None
        self._made = self._of(parts, resume_token_ids, step=step)
        return self._made

    async def _part(self, run: LowerRun, place: int) -> bytes:
        """Makes the segment of one tile: the tower runs on while what was made before is on its way."""
        boundary, took_s = await self._engine.tile(run, place)
        self.report.device_s += took_s
        data, took_s = await self._engine.encode(boundary, self.report.plan)
        self.report.encode_s += took_s
        if place == run.num_tiles - 1:
            self._left_device.set()
        return data

    def _of(
        self,
        segments: Segments,
        resume_token_ids: Sequence[int],
        *,
        question: str = "",
        step: NextStep | None = None,
        prefix_cached: bool = False,
    ) -> Payload:
        name, silence_timeout_s = self._picture_name, self._silence_timeout_s
        return Payload(
            *(self.report.plan, segments, self._max_new_tokens, self._engine.vocabulary, question),
            *(step, name, prefix_cached, resume_token_ids, silence_timeout_s),
        )

    def _stepper(self, run: LowerRun) -> NextStep:
        kept: list[bytes] = []  # for a node that takes over: the run itself cannot go back

        async def step(place: int, token_id: int) -> bytes:
            data, took_s = await self._engine.step(run, kept, place, token_id, self.report.plan)
            self.report.device_tokens_s += took_s
            return data

        return step

    def _elapsed_s(self) -> float:
        return time.perf_counter() - self._started_s


async def _nothing() -> AsyncGenerator[int, None]:
    """What is left of an answer that is complete."""
    return
    yield
