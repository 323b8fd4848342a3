"""A report says what happened to one request (law 6)."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from edge_node.answering.side import Side
from edge_node.cloud.exchange import Exchange, PromptCount
from splitvlm.domain import GREEDY, Plan, Sampling
from splitvlm.grammar.choices import ChoiceProbability


@dataclass(slots=True)
class Fault:
    """Records a cloud node that could not finish its part of an answer, and what it cost."""

    code: str  # of the error
    sentence: str  # of the error, for people
    node: str  # its address
    tokens: int  # of the answer, by then
    silent_s: float  # from its last sign of life until it was given up
    at_s: float  # of the request's clock
    recovery_s: float = 0.0  # until the next token, or the end


@dataclass(slots=True)
class RequestReport:
    """Says where a request's bytes and seconds went. Device seconds include the emulated slow-down."""

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
    answered_by: Side | None = None  # the last of them, where one took over from another
    answered_node: str = ""  # the cloud node's address, where the cloud answered
    prefix_cached: bool = False  # the cloud node had the prompt's beginning: only the rest was sent
    prompt: PromptCount = field(default_factory=PromptCount)  # as who answered counted it
    finish_reason: str = "stop"  # the model ended its answer, or a stop string did; or `length`
    faults: list[Fault] = field(default_factory=list)
    choices: tuple[ChoiceProbability, ...] = ()  # where the answer was one of some: how likely each was
    sampling: Sampling = GREEDY  # by which tokens were chosen, with the seed that was given or drawn

    def on_token(self, token_id: int, elapsed_s: float) -> None:
        """Notes that the application gets a token, `elapsed_s` after the request's start."""
        if not self.token_ids:
            self.first_token_s = elapsed_s
        self._on_recovery(elapsed_s)
        self.token_ids.append(token_id)

    def on_end(self, elapsed_s: float) -> None:
        """Notes that the answer is complete."""
        self._on_recovery(elapsed_s)
        self.total_s = elapsed_s

    def _on_recovery(self, elapsed_s: float) -> None:
        if self.faults and not self.faults[-1].recovery_s:
            self.faults[-1].recovery_s = elapsed_s - self.faults[-1].at_s
