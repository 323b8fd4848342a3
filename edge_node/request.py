"""One question from its arrival to its account: lower part, encoding, the wire, the answer's text."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from PIL import Image

from edge_node.cloud_link import CloudLink
from edge_node.cloud_session import Exchange, NextStep, Payload
from edge_node.engine import Engine
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


class Request:
    """Runs one question under one plan, which it keeps to its end (law 3)."""

    def __init__(
        self, engine: Engine, link: CloudLink | None, plan: Plan, image: Image.Image, question: str, max_new_tokens: int
    ) -> None:
        self._engine = engine
        self._link = link
        self._image = image
        self._question = question
        self._max_new_tokens = max_new_tokens
        self._started_s = time.perf_counter()
        self.account = Account(plan, engine.slowdown)

    async def tokens(self) -> AsyncGenerator[int, None]:
        """The answer's token ids as they come; the account is complete when it ends."""
        source = self._on_device() if self.account.plan.cut == DEVICE else self._with_cloud()
        async with contextlib.aclosing(source) as tokens:
            async for token in tokens:
                if not self.account.token_ids:
                    self.account.first_token_s = self._elapsed_s()
                self.account.token_ids.append(token)
                yield token
        self.account.total_s = self._elapsed_s()

    async def _on_device(self) -> AsyncGenerator[int, None]:
        tokens, self.account.device_s = await self._engine.start(self._image, self._question, self._max_new_tokens)
        token, took_s = await self._engine.next(tokens)
        self.account.device_s += took_s
        while token is not None:
            yield token
            token, took_s = await self._engine.next(tokens)
            self.account.device_tokens_s += took_s

    async def _with_cloud(self) -> AsyncGenerator[int, None]:
        if self._link is None:
            raise PeerUnavailable(
                "No cloud node is known.", advice="Set `cloud` or `orchestrator` in the edge node's configuration."
            )
        payload = await self._payload()
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
