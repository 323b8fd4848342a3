"""What happened to one request (law 6), and the same on the wire to the application that asked."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from edge_node.answering.hedge import Side
from edge_node.cloud.exchange import Exchange
from splitvlm.domain import Plan
from splitvlm.wire.v1 import local_pb2 as pb


@dataclass
class Fault:
    """A cloud node that could not finish its part of an answer, and what it cost."""

    code: str  # of the error
    sentence: str  # the same for people
    node: str  # its address
    tokens: int  # of the answer, by then
    silent_s: float  # from its last sign of life until it was given up
    at_s: float  # of the request's clock
    recovery_s: float = 0.0  # until the next token, or the end


@dataclass
class RequestReport:
    """Where a request's bytes and seconds went. Device seconds include the emulated slow-down."""

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
    prefix_cached: bool = False  # the cloud node remembered the picture: only the question was sent
    faults: list[Fault] = field(default_factory=list)

    def to_wire(self) -> pb.RequestReport:
        end = self.exchange.end
        return pb.RequestReport(
            request_id=self.request_id,
            plan=str(self.plan),
            bytes_sent=self.exchange.bytes_sent,
            bytes_received=self.exchange.bytes_received,
            first_token_s=self.first_token_s,
            total_s=self.total_s,
            device_s=self.device_s,
            encode_s=self.encode_s,
            upload_s=self.upload_s,
            decode_s=1e-6 * end.decode_us,
            queue_s=1e-6 * end.queue_us,
            prefill_s=1e-6 * end.prefill_us,
            tokens_s=1e-6 * end.tokens_us + self.device_tokens_s,
            tokens=len(self.token_ids),
            token_ids=self.token_ids,
            emulated_slowdown=self.emulated_slowdown,
            hedged=self.hedged,
            answered_by=str(self.answered_by or ""),
            answered_node=self.answered_node if self.answered_by is Side.CLOUD else "",
            hedge_s=self.hedge_s,
            prefix_cached=self.prefix_cached,
            faults=[
                pb.Fault(
                    code=fault.code,
                    sentence=fault.sentence,
                    node=fault.node,
                    tokens=fault.tokens,
                    silent_s=fault.silent_s,
                    recovery_s=fault.recovery_s,
                )
                for fault in self.faults
            ],
        )
