"""Serves the calls of local applications over gRPC: ask and status. Everything is decided elsewhere; this translates."""

from __future__ import annotations

import contextlib
from typing import Any

from edge_node.answering.answerer import Answerer
from edge_node.local.messages import event_to_wire, question_from_wire, status_to_wire
from edge_node.planner import Planner
from edge_node.runtime import Runtime
from splitvlm.crypto.identity import Role
from splitvlm.rpc.authorization import require_role
from splitvlm.rpc.status import unary
from splitvlm.rpc.whole_steps import to_its_end
from splitvlm.wire.v1 import local_pb2 as pb
from splitvlm.wire.v1 import local_pb2_grpc


class LocalServicer(local_pb2_grpc.LocalServicer):
    """Serves `splitvlm.wire.v1.Local`, for callers with the role of an application or an edge node."""

    def __init__(self, answerer: Answerer, runtime: Runtime, planner: Planner, *, plaintext: bool) -> None:
        self._answerer = answerer
        self._runtime = runtime
        self._planner = planner
        self._plaintext = plaintext

    @unary
    async def Ask(self, request: pb.Question, context: Any) -> None:  # type: ignore[override]
        """Writes an answer's messages. It is no generator: a caller that goes away ends the answer at once."""
        require_role(context, Role.APP, Role.EDGE, plaintext=self._plaintext)
        async with contextlib.aclosing(self._answerer.answer(question_from_wire(request))) as events:
            async for event in events:
                await to_its_end(context.write(event_to_wire(event)))

    @unary
    async def Status(self, request: pb.StatusRequest, context: Any) -> pb.StatusReply:
        """Returns what `splitvlm status` shows of this node: its peers, its plan table and its requests."""
        require_role(context, Role.APP, Role.EDGE, plaintext=self._plaintext)
        return status_to_wire(self._runtime, self._planner)
