"""One answer under one plan: whoever works on it, one after another, and what the application gets of it.

Who comes next is decided in edge_node/answering/failover.py; here it is done. A cloud node that fails loses nothing (law 3):
the payload was kept, and goes with the tokens that are there already to whoever takes over.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from edge_node.answering.attempt import AttemptTerms, CloudAttempt, DeviceAttempt
from edge_node.answering.failover import Ended, Failed, Phase, after, begun
from edge_node.answering.hedge import HedgeAttempt, Race
from edge_node.answering.preparation import Preparation
from edge_node.answering.progress import CloudProgress
from edge_node.answering.question import PlannedQuestion
from edge_node.answering.report import Fault, RequestReport
from edge_node.answering.side import Side
from edge_node.cloud.cloud_request import AnswerSpec
from edge_node.cloud.link import CloudLink
from edge_node.engine import DeviceEngine
from edge_node.privacy import PrivacyDoor
from edge_node.token_source import TokenSource
from splitvlm.domain import DEVICE
from splitvlm.errors import SplitvlmError

_log = logging.getLogger("splitvlm.edge.run")
MOST_JITTER = 1.5  # times the pause that a node without room asked for


@dataclass(frozen=True, slots=True)
class CloudNodes:
    """Holds the links that one answer may use: the one in use, then those that take over, each once."""

    links: tuple[CloudLink, ...] = ()
    on_fault: Callable[[CloudLink], None] = lambda _link: None


@dataclass(frozen=True, slots=True)
class Fallbacks:
    """Says what is done where the plan's own side is slow or fails."""

    hedge_after_s: float | None = (
        None  # after its start the device begins beside the plan, if no token came; None: never
    )
    finish_alone: bool = False  # the device may finish the answer by itself
    silence_timeout_s: float | None = None  # a cloud node that is silent for so long has failed; None: never


class AnswerRun(TokenSource):
    """Gives the answer's token ids as they come, each once. The report is complete when it has ended.

    Raises the error of the last who failed where nobody is left and tokens are missing.
    """

    def __init__(
        self,
        engine: DeviceEngine,
        privacy: PrivacyDoor,
        question: PlannedQuestion,
        clouds: CloudNodes | None = None,
        fallbacks: Fallbacks | None = None,
        book: Callable[[int], None] = lambda _num_bytes: None,
    ) -> None:
        """`book` books memory of the device; what it raises ends the answer, for it is no cloud node's fault."""
        super().__init__()
        self.report = RequestReport(question.plan, engine.slowdown, sampling=question.sampling)
        self._engine = engine
        self._privacy = privacy
        self._question = question
        self._clouds = clouds or CloudNodes()
        self._fallbacks = fallbacks or Fallbacks()
        self._started_s = time.perf_counter()
        self._progress = CloudProgress()
        self._preparation = Preparation(engine, question, self.report, self._progress, book)
        self._state = begun(
            on_device=question.plan.cut == DEVICE,
            hedged=self._fallbacks.hedge_after_s is not None,
            num_nodes=len(self._clouds.links),
            may_finish_alone=self._fallbacks.finish_alone,
        )
        self._source = self._first_source()

    async def _next(self) -> int | None:
        while self._state.phase is not Phase.COMPLETE:
            try:
                token_id = await anext(self._source, None)
            except SplitvlmError as error:
                if not self._go_on_after(error):
                    raise
                continue
            if token_id is not None:
                self._note_winner()
                self.report.on_token(token_id, self._elapsed_s())
                return token_id
            self._note_winner()
            self._state = after(self._state, Ended())
        self._open_ahead()
        if self.report.answered_by is Side.CLOUD:
            self.report.prompt = self.report.exchange.cloud.prompt
        ends = self._engine.vocabulary.end_ids
        self.report.finish_reason = "stop" if {*self.report.token_ids[-1:]} & ends else "length"
        self.report.on_end(self._elapsed_s())
        return None

    def end_early(self) -> None:
        """Notes that the answer ends with the last token: what would follow is not wanted."""
        self.report.on_end(self._elapsed_s())

    async def _close(self) -> None:
        await self._source.aclose()

    @property
    def _link(self) -> CloudLink | None:
        """Returns the link to the node that is asked, or was asked last."""
        return self._clouds.links[self._state.node] if self._clouds.links else None

    def _first_source(self) -> TokenSource:
        match self._state.phase:
            case Phase.ON_DEVICE:
                self.report.answered_by = Side.DEVICE
                return self._on_device()
            case Phase.HEDGED:
                return Race({Side.CLOUD: self._on_cloud(), Side.DEVICE: self._beside()})
            case _:
                self.report.answered_by = Side.CLOUD
                return self._on_cloud()

    def _later_source(self) -> TokenSource:
        """Returns the rest of the answer from whoever the state names."""
        sides: dict[Side, TokenSource] = {}
        if self._state.phase in (Phase.TAKING_OVER, Phase.PAUSED):
            sides[Side.CLOUD] = self._on_cloud()
        if self._state.device_beside:
            sides[Side.DEVICE] = self._on_device()
        return Race(sides)

    def _go_on_after(self, error: SplitvlmError) -> bool:
        """Turns to whoever comes next. Returns whether anybody does."""
        failed_link, failed_state = self._link, self._state
        may_leave = self._privacy.allows(self._question.plan)
        event = Failed(error, self._answer_spec.is_complete(self.report.token_ids), may_leave, _jitter())
        self._state = after(failed_state, event)
        if self._state.phase is Phase.FAILED:
            return False
        assert failed_link is not None, "without a cloud node nothing comes next"
        self._note_fault(error, failed_link)
        if may_leave:
            self._clouds.on_fault(failed_link)
        if self._state.phase is Phase.COMPLETE:
            return True
        self.report.exchange.begin_attempt()
        self.report.prefix_cached = False  # whoever takes over gets it all
        self._source = self._later_source()
        return True

    def _note_fault(self, error: SplitvlmError, link: CloudLink) -> None:
        now_s, num_tokens = time.perf_counter(), len(self.report.token_ids)
        silent_s = now_s - (self.report.exchange.heard_s or self._started_s)
        fault = Fault(error.code, error.sentence, link.address, num_tokens, silent_s, now_s - self._started_s)
        self.report.faults.append(fault)
        extra = {"request": self.report.request_id, "tokens": num_tokens}
        _log.warning("%s failed: %s", link.peer, error.sentence, extra=extra)

    def _note_winner(self) -> None:
        if isinstance(self._source, Race):
            self.report.answered_by = self._source.winner

    def _open_ahead(self) -> None:
        """Opens a session ahead where a cloud node was overtaken: it lost its own, and the next question must not wait."""
        overtaken = isinstance(self._source, Race) and self._source.winner is Side.DEVICE
        if overtaken and self._link is not None and self._privacy.allows(self._question.plan):
            self._link.open_ahead()

    @property
    def _answer_spec(self) -> AnswerSpec:
        """Returns what is still wanted: the tokens that are there are not asked for again."""
        resume_token_ids = tuple(self.report.token_ids)
        question = self._question
        return AnswerSpec(question.max_new_tokens, self._engine.vocabulary, resume_token_ids, question.sampling)

    def _on_cloud(self) -> CloudAttempt:
        names, timeout_s = self._question.prefix_names, self._fallbacks.silence_timeout_s
        terms = AttemptTerms(self._answer_spec, names, timeout_s, self._pause_s)
        return CloudAttempt(self._link, terms, self._preparation, self._privacy, self.report, self._progress)

    @property
    def _pause_s(self) -> float:
        return self._state.pause_s if self._state.phase is Phase.PAUSED else 0.0

    def _on_device(self) -> DeviceAttempt:
        return DeviceAttempt(self._engine, self._preparation, self.report, tuple(self.report.token_ids))

    def _beside(self) -> HedgeAttempt:
        after_s = self._fallbacks.hedge_after_s
        assert after_s is not None, "the answer is hedged"
        return HedgeAttempt(
            self._engine, self._preparation, self.report, self._progress, lambda: after_s - self._elapsed_s()
        )

    def _elapsed_s(self) -> float:
        return time.perf_counter() - self._started_s


def _jitter() -> float:
    return random.uniform(1.0, MOST_JITTER)
