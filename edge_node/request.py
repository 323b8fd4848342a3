"""One question from its arrival to its account: lower part, encoding, the wire, the answer's tokens.

A hedged question has two runs: the plan's own, and the device alone beside it. The device's run begins when the plan has left
the device (it must not delay the upload), and goes on from the plan's lower part where it can. The cloud answers from its
first token on, unless the device has finished by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field

from PIL import Image

from edge_node.cloud_link import CloudLink
from edge_node.cloud_session import Exchange, NextStep, Payload
from edge_node.engine import Engine
from edge_node.hedge import Side, first_to_answer
from splitvlm.domain import DEVICE, IMAGE, CutKind, Plan
from splitvlm.errors import PeerUnavailable
from splitvlm.model.parts import LowerRun


@dataclass
class Account:
    """Where a request's bytes and seconds went (law 6). Device seconds include the emulated slow-down."""

    plan: Plan
    emulated_slowdown: float = 1.0
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    device_s: float = 0.0
    encode_s: float = 0.0
    upload_s: float = 0.0
    first_token_s: float = 0.0
    total_s: float = 0.0
    token_ids: list[int] = field(default_factory=list)
    exchange: Exchange = field(default_factory=Exchange)
    device_tokens_s: float = 0.0  # on the device, of the tokens after the first
    hedged: bool = False  # the device's run beside the plan began
    hedge_s: float = 0.0  # on the device, of that run
    answered_by: Side | None = None


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
        hedge_after_s: float | None = None,
    ) -> None:
        """`hedge_after_s` after its start the device begins beside the plan, if no token has come; None: never."""
        self._engine = engine
        self._link = link
        self._image = image
        self._question = question
        self._max_new_tokens = max_new_tokens
        self._hedge_after_s = hedge_after_s
        self._lower: LowerRun | None = None
        self._left_device = asyncio.Event()  # the payload is made, or will not be
        self._gave_up = asyncio.Event()  # no token will come from the cloud any more
        self._started_s = time.perf_counter()
        self.account = Account(plan, engine.slowdown)

    async def tokens(self) -> AsyncGenerator[int, None]:
        """The answer's token ids as they come; the account is complete when it ends."""
        source = self._source()
        async with contextlib.aclosing(source) as tokens:
            async for token in tokens:
                if not self.account.token_ids:
                    self.account.first_token_s = self._elapsed_s()
                self.account.token_ids.append(token)
                yield token
        self.account.total_s = self._elapsed_s()

    def _source(self) -> AsyncGenerator[int, None]:
        if self.account.plan.cut == DEVICE:
            self.account.answered_by = Side.DEVICE
            return self._on_device()
        if self._hedge_after_s is not None:
            return self._hedged()
        self.account.answered_by = Side.CLOUD
        return self._with_cloud()

    async def _hedged(self) -> AsyncGenerator[int, None]:
        sides = {Side.CLOUD: self._with_cloud(), Side.DEVICE: self._beside()}
        async with contextlib.aclosing(first_to_answer(sides)) as tokens:
            async for side, token in tokens:
                self.account.answered_by = side
                yield token
        if self.account.answered_by is Side.DEVICE and self._link is not None:
            self._link.open_ahead()

    async def _beside(self) -> AsyncGenerator[int, None]:
        """The answer from the device alone, once its time has come."""
        assert self._hedge_after_s is not None
        await self._left_device.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._hedge_after_s - self._elapsed_s())):
                await self._gave_up.wait()
        self.account.hedged = True
        tokens, self.account.hedge_s = await self._begin_beside()
        held: list[int] = []  # until the answer is complete: the cloud's, if it comes, is finished sooner
        while True:
            token, took_s = await self._engine.next(tokens)
            self.account.hedge_s += took_s
            if token is not None:
                held.append(token)
            if token is None or self._gave_up.is_set():
                for ready in held:
                    yield ready
                held.clear()
            if token is None:
                return

    async def _begin_beside(self) -> tuple[Iterator[int], float]:
        run = self._lower
        if run is not None and run.cut.kind is not CutKind.LM:
            return await self._engine.go_on(run, self._max_new_tokens)
        return await self._engine.start(self._image, self._question, self._max_new_tokens)

    async def _on_device(self) -> AsyncGenerator[int, None]:
        tokens, self.account.device_s = await self._engine.start(self._image, self._question, self._max_new_tokens)
        token, took_s = await self._engine.next(tokens)
        self.account.device_s += took_s
        while token is not None:
            yield token
            token, took_s = await self._engine.next(tokens)
            self.account.device_tokens_s += took_s

    async def _with_cloud(self) -> AsyncGenerator[int, None]:
        try:
            async with contextlib.aclosing(self._from_cloud()) as tokens:
                async for token in tokens:
                    yield token
        finally:
            self._left_device.set()
            self._gave_up.set()

    async def _from_cloud(self) -> AsyncGenerator[int, None]:
        if self._link is None:
            raise PeerUnavailable(
                "No cloud node is known.", advice="Set `cloud` or `orchestrator` in the edge node's configuration."
            )
        payload = await self._payload()
        self._left_device.set()
        try:
            async with contextlib.aclosing(self._link.answer(payload, self.account.exchange)) as tokens:
                async for token in tokens:
                    yield token
        finally:
            exchange = self.account.exchange
            self.account.upload_s = max(0.0, exchange.upload_elapsed_s - self._link.estimate().rtt_s)

    async def _payload(self) -> Payload:
        plan, account = self.account.plan, self.account
        if plan.cut == IMAGE:
            data, account.encode_s = await self._engine.encode_picture(self._image, plan.level)
            return Payload(plan, data, self._max_new_tokens, question=self._question)
        run, account.device_s = await self._engine.lower(self._image, self._question, plan)
        self._lower = run
        data, account.encode_s = await self._engine.encode(run, plan)
        step = self._stepper(run) if plan.cut.kind is CutKind.LM else None
        return Payload(plan, data, self._max_new_tokens, step=step)

    def _stepper(self, run: LowerRun) -> NextStep:
        async def step(token_id: int) -> bytes:
            data, took_s = await self._engine.step(run, token_id, self.account.plan)
            self.account.device_tokens_s += took_s
            return data

        return step

    def _elapsed_s(self) -> float:
        return time.perf_counter() - self._started_s
