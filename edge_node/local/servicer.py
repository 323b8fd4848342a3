"""What local applications may call: ask and status."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from PIL import Image

from edge_node.answering.admission import Admission, Booking
from edge_node.answering.failure_detector import FailureDetector
from edge_node.answering.request import Request
from edge_node.audit import AuditLog
from edge_node.cloud.link import CloudLink
from edge_node.planner import Planner
from edge_node.runtime import Runtime
from splitvlm.crypto.identity import Role
from splitvlm.errors import UsageError
from splitvlm.model.pictures import inspect_picture, read_picture
from splitvlm.model.text import TextStream
from splitvlm.planning.policy import Choice
from splitvlm.rpc.authorization import require_role
from splitvlm.rpc.status import streaming, unary
from splitvlm.scenes.samples import warning_about
from splitvlm.wire.v1 import local_pb2 as pb
from splitvlm.wire.v1 import local_pb2_grpc

_log = logging.getLogger("splitvlm.edge")
MAX_QUESTION_BYTES = 16 * 1024
OPENED_BYTES = 4  # a pixel of an RGB picture, as Pillow holds it


class LocalServicer(local_pb2_grpc.LocalServicer):
    def __init__(self, runtime: Runtime, planner: Planner, audit: AuditLog | None, *, plaintext: bool) -> None:
        self._runtime = runtime
        self._planner = planner
        self._audit = audit
        self._admission = Admission(runtime.settings.limits)
        self._plaintext = plaintext
        self._failure_detector = FailureDetector()

    @streaming
    async def Ask(self, request: pb.Question, context: Any) -> AsyncIterator[pb.Answer]:  # gRPC's own naming
        require_role(context, Role.APP, Role.EDGE, plaintext=self._plaintext)
        self._check(request)
        self._admission.use(self._runtime.settings.limits)
        booking = self._admission.begin()
        try:
            image = await self._opened(request.picture, booking)
            if self._runtime.link is not None:
                await self._runtime.link.first_look()
            self._runtime.use_reachable()
            with self._runtime.held() as (link, standby):
                async for message in self._answer(request, image, link, standby):
                    yield message
        finally:
            self._runtime.engine.once_running_jobs_end(booking.release)

    def _check(self, request: pb.Question) -> None:
        if not request.text.strip() or len(request.text.encode()) > MAX_QUESTION_BYTES:
            raise UsageError("A question has between 1 and 16,384 bytes of text.")
        context_tokens = self._runtime.engine.part.spec.max_context
        most_tokens = min(self._runtime.settings.limits.max_new_tokens, context_tokens - 1)
        if request.max_new_tokens > most_tokens:
            raise UsageError(
                f"max_new_tokens is {request.max_new_tokens}, but this edge node's answers have at most {most_tokens}.",
                advice=f"Ask for fewer, or raise limits.max_new_tokens; the model reads {context_tokens} tokens in all.",
            )

    async def _opened(self, data: bytes, booking: Booking) -> Image.Image:
        """The picture of a question. What opening and preparing it will take is booked before a pixel is decoded."""
        engine = self._runtime.engine
        header = await asyncio.to_thread(inspect_picture, data)  # a picture that is being opened must not hold it up
        kept_bytes = OPENED_BYTES * header.width * header.height
        prepared_bytes = kept_bytes + engine.part.preparation_bytes(header.width, header.height)
        booking.take(max(header.decoded_bytes, prepared_bytes))
        return await engine.aside(read_picture, data)

    async def _answer(
        self, request: pb.Question, image: Image.Image, link: CloudLink | None, standby: Sequence[CloudLink]
    ) -> AsyncIterator[pb.Answer]:
        settings = self._runtime.settings.planning
        estimate = link.estimate() if link else None
        remembered = link is not None and settings.prefix_cache and self._runtime.privacy.may_be_remembered
        name = await self._runtime.engine.aside(link.name_of, image) if link is not None and remembered else b""
        known = link.known(name) if link is not None else None
        if link is not None:
            link.asked()
            self._planner.spent(link.take_bytes())
        choice = self._planner.choose(request.plan, estimate, self._cloud_is_there(link), known)
        assert choice.plan is not None
        yield _chosen(choice, estimate)
        max_new_tokens = request.max_new_tokens or settings.max_new_tokens
        running = Request(
            *(self._runtime.engine, link, choice.plan, image, request.text, max_new_tokens),
            privacy=self._runtime.privacy,
            hedge_after_s=choice.hedge_after_s,
            picture_name=name,
            standby=standby,
            finish_alone=self._planner.can_finish_alone,
            silence_timeout_s=self._silence_timeout_s(choice, standby),
            on_fault=self._runtime.on_fault,
        )
        async with contextlib.aclosing(self._text(running)) as pieces:
            async for piece in pieces:
                yield pb.Answer(text=piece)
        self._runtime.count(choice.plan)
        report = running.report
        self._failure_detector.saw(report.exchange.longest_silence_s, time.monotonic())
        _log.info(
            "answered",
            extra={
                "request": report.request_id,
                "plan": str(report.plan),
                "answered_by": str(report.answered_by),
                "total_s": report.total_s,
            },
        )
        wire = report.to_wire()
        wire.warning = await asyncio.to_thread(warning_about, self._runtime.settings.model.name, image)
        yield pb.Answer(report=wire)

    async def _text(self, running: Request) -> AsyncGenerator[str, None]:
        """The answer's text as it comes. However it ends, the audit log says what left."""
        text, outcome = TextStream(self._runtime.engine.part.tokenizer), "unfinished"
        try:
            async with contextlib.aclosing(running.tokens()) as tokens:
                async for token in tokens:
                    if piece := text.push(token):
                        yield piece
            outcome = "answered"
        finally:
            if self._audit is not None:
                report = running.report
                self._audit.write(report, self._runtime.privacy.leak(report.plan), outcome)
        if piece := text.finish():
            yield piece

    def _cloud_is_there(self, link: CloudLink | None) -> bool:
        """One without room is waited for only where the device cannot answer by itself."""
        return link is not None and link.reachable and (link.has_room or not self._planner.can_finish_alone)

    def _silence_timeout_s(self, choice: Choice, standby: Sequence[CloudLink]) -> float | None:
        """Returns how long a silent cloud node is waited for; None, which is for ever, where nobody could take over."""
        if not (standby or self._planner.can_finish_alone):
            return None
        return self._failure_detector.limit_s(choice.conservative_s, time.monotonic())

    @unary
    async def Status(self, request: pb.StatusRequest, context: Any) -> pb.StatusReply:
        require_role(context, Role.APP, Role.EDGE, plaintext=self._plaintext)
        link, table = self._runtime.link, self._planner.table
        estimate = link.estimate() if link else None
        return pb.StatusReply(
            model=self._runtime.settings.model.name,
            cloud_address=link.address if link else "",
            cloud_reachable=link.reachable if link else False,
            orchestrator_reachable=self._runtime.orchestrator_reachable,
            table_version=table.version if table else 0,
            uplink_bps=estimate.uplink_bps if estimate else 0.0,
            rtt_s=estimate.rtt_s if estimate else 0.0,
            spread=estimate.spread if estimate else 0.0,
            standby=[other.address for other in self._runtime.standby],
            plans=[
                pb.PlanStatus(
                    plan=str(line.plan), accuracy_drop=line.accuracy_drop, leak=self._runtime.privacy.leak(line.plan)
                )
                for line in (table.lines if table else ())
            ],
            notice=self._planner.notice,
        )


def _chosen(choice: Choice, estimate: Any) -> pb.Answer:
    return pb.Answer(
        chosen=pb.Chosen(
            plan=str(choice.plan),
            reason=choice.reason,
            uplink_bps=estimate.uplink_bps if estimate else 0.0,
            rtt_s=estimate.rtt_s if estimate else 0.0,
            predicted_s=choice.predicted_s,
            hedge_after_s=choice.hedge_after_s,
        )
    )
