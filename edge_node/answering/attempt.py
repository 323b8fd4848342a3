"""One try at an answer: at one cloud node, or on the device alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edge_node.answering.preparation import Preparation
from edge_node.answering.progress import CloudProgress, Milestone
from edge_node.answering.report import RequestReport
from edge_node.cloud.cloud_request import AnswerSpec, CloudRequest
from edge_node.cloud.link import CloudLink
from edge_node.cloud.link_answer import LinkAnswer
from edge_node.cloud.payload import Payload
from edge_node.engine import DeviceEngine
from edge_node.privacy import PrivacyDoor
from edge_node.token_source import TokenSource
from splitvlm.errors import PeerUnavailable, PrefixEvicted


@dataclass(frozen=True, slots=True)
class AttemptTerms:
    """Holds what one try at a cloud node asks for."""

    answer: AnswerSpec
    prefix_names: tuple[bytes, ...] = ()  # the first: of all its images
    silence_timeout_s: float | None = None
    pause_s: float = 0.0  # before anything is sent


class CloudAttempt(TokenSource):
    """Makes what crosses, sends it to one cloud node, and gives the tokens that come back. Asking raises a SplitvlmError."""

    def __init__(
        self,
        link: CloudLink | None,
        terms: AttemptTerms,
        preparation: Preparation,
        privacy: PrivacyDoor,
        report: RequestReport,
        progress: CloudProgress,
    ) -> None:
        super().__init__()
        self._link = link
        self._terms = terms
        self._preparation = preparation
        self._privacy = privacy
        self._report = report
        self._progress = progress
        self._tokens: LinkAnswer | None = None
        self._prefix_cached = False  # the rest alone was sent

    async def _next(self) -> int | None:
        if self._link is None:
            raise PeerUnavailable(
                "No cloud node is known.", advice="Set `cloud` or `orchestrator` in the edge node's configuration."
            )
        token_id = await (self._first(self._link) if self._tokens is None else anext(self._tokens, None))
        if token_id is not None:
            self._report.answered_node = self._link.address
            self._report.prefix_cached = self._report.prefix_cached or self._prefix_cached
        return token_id

    async def _close(self) -> None:
        try:
            if self._tokens is not None:
                await self._tokens.aclose()
        finally:
            if self._link is not None:
                elapsed_s = self._report.exchange.upload.elapsed_s
                self._report.upload_s = max(0.0, elapsed_s - self._link.estimate().rtt_s)
            self._progress.advance(Milestone.ENDED)

    async def _first(self, link: CloudLink) -> int | None:
        """Sends the prompt, without what the node has of it. Returns the first token."""
        if self._terms.pause_s:
            await asyncio.sleep(self._terms.pause_s)
        cached = link.prefixes.find(self._terms.prefix_names, self._report.plan)
        rest = await self._preparation.payload_after(cached) if cached is not None else None
        if rest is not None:
            self._prefix_cached = True
            self._tokens = self._sent(link, rest)
            try:
                return await anext(self._tokens, None)
            except PrefixEvicted:  # told before the first token: all of it goes once more
                self._prefix_cached = False
                self._report.exchange.begin_attempt()
        self._tokens = self._sent(link, await self._preparation.payload())
        return await anext(self._tokens, None)

    def _sent(self, link: CloudLink, payload: Payload) -> LinkAnswer:
        """Sends a payload: the only way from here to a cloud node. Raises PrivacyRefused before anything leaves."""
        self._privacy.check(payload.plan)
        terms = self._terms
        prefix_name = terms.prefix_names[0] if terms.prefix_names and self._privacy.may_cache_prefix else b""
        if payload.segments.complete:
            self._progress.advance(Milestone.LEFT_DEVICE)
        return link.answer(
            CloudRequest(payload, terms.answer, prefix_name, terms.silence_timeout_s), self._report.exchange
        )


class DeviceAttempt(TokenSource):
    """Gives the tokens that follow `resume_token_ids` on the device alone."""

    def __init__(
        self, engine: DeviceEngine, preparation: Preparation, report: RequestReport, resume_token_ids: Sequence[int]
    ) -> None:
        super().__init__()
        self._engine = engine
        self._preparation = preparation
        self._report = report
        self._resume_token_ids = resume_token_ids
        self._tokens: Iterator[int] | None = None

    async def _next(self) -> int | None:
        if self._tokens is None:
            self._tokens, began_s = await self._preparation.begin_alone(self._resume_token_ids)
            token_id, first_s = await self._engine.next(self._tokens)
            self._report.device_s += began_s + first_s
            return token_id
        token_id, token_s = await self._engine.next(self._tokens)
        self._report.device_tokens_s += token_s
        return token_id

    async def _close(self) -> None:
        self._tokens = None  # a job that runs ends by itself
