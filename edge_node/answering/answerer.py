"""Answers questions: admission, the picture, the plan, the run, the audit log, the report.

No protobuf, no gRPC and no HTTP is in here: whoever serves applications translates (edge_node/local).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence

from PIL import Image

from edge_node.answering.admission import Admission, Booking
from edge_node.answering.events import Answered, AnswerEvent, PlanChosen
from edge_node.answering.question import PlannedQuestion, Question
from edge_node.answering.report import RequestReport
from edge_node.answering.run import AnswerRun, CloudNodes, Fallbacks
from edge_node.answering.shown_text import ShownText
from edge_node.answering.stop_strings import check_stop_strings
from edge_node.audit import AuditLog
from edge_node.cloud.failure_detector import FailureDetector
from edge_node.cloud.link import CloudLink
from edge_node.cloud.node_health import NodeHealth
from edge_node.planner import Planner
from edge_node.runtime import Runtime
from splitvlm.errors import UsageError
from splitvlm.grammar.choices import ChoiceGrammar
from splitvlm.grammar.grammar import Grammar
from splitvlm.model.pictures import inspect_picture, read_picture
from splitvlm.model.prompt import Prompt
from splitvlm.model.sampling import check_crossing
from splitvlm.planning.policy import Choice
from splitvlm.scenes.samples import warning_about

_log = logging.getLogger("splitvlm.edge")
OPENED_BYTES = 4  # a pixel of an RGB picture, as Pillow holds it


class Answerer:
    """Answers for a whole node, behind every port for applications."""

    def __init__(self, runtime: Runtime, planner: Planner, audit: AuditLog | None) -> None:
        self.admission = Admission(runtime.settings.limits)
        self._runtime = runtime
        self._planner = planner
        self._audit = audit
        self._failure_detector = FailureDetector()

    async def answer(self, question: Question) -> AsyncGenerator[AnswerEvent, None]:
        """Gives what the application sees, and ends with Answered.

        Raises UsageError, CapacityError, PrivacyRefused, PeerUnavailable, and what ends a run. Whoever leaves earlier
        calls `aclose`: all work for the question is cancelled then, and its memory is free when its last job has ended.
        """
        self._check(question)
        runtime = self._runtime
        with self._booked() as booking:
            grammar = await self._compiled(question)  # held to the answer's end: nobody else compiles it
            prompt = Prompt(question.conversation, await self._opened(question.images, booking))
            if runtime.clouds.link is not None:
                await runtime.clouds.link.first_look()
            runtime.clouds.use_ready()
            with runtime.clouds.held() as links:
                run, chosen = await self._planned(question, prompt, links, booking)
                yield chosen
                text = ShownText(runtime.engine.part.tokenizer, question.stop, question.sampling.top_logprobs)
                with self._audited(run.report):
                    async with contextlib.aclosing(run):
                        async for token_id in run:
                            if piece := text.push(token_id):
                                yield piece
                            if text.stopped:
                                run.end_early()
                                break
                if piece := text.finish():
                    yield piece
                if isinstance(grammar, ChoiceGrammar):
                    run.report.choices = grammar.probabilities(run.report.token_ids)
                self._note(run.report)
                yield Answered(run.report, await self._warning(prompt))

    async def _compiled(self, question: Question) -> Grammar | None:
        """Returns the grammar of the question's constraint, if any. Raises UsageError for one that cannot be compiled."""
        constraint = question.sampling.constraint
        return None if constraint is None else await self._runtime.engine.part.grammars.ready(constraint)

    def _check(self, question: Question) -> None:
        check_stop_strings(question.stop)
        if len(question.images) != question.conversation.num_images:
            raise UsageError(
                f"The conversation shows {question.conversation.num_images} images, but {len(question.images)} came with it.",
                advice="Send one image for each image part, in their order.",
            )
        context_tokens = self._runtime.engine.part.spec.max_context
        most_tokens = min(self._runtime.settings.limits.max_new_tokens, context_tokens - 1)
        if question.max_new_tokens > most_tokens:
            raise UsageError(
                f"max_new_tokens is {question.max_new_tokens}, but this edge node's answers have at most {most_tokens}.",
                advice=f"Ask for fewer, or raise limits.max_new_tokens; the model reads {context_tokens} tokens in all.",
            )

    @contextlib.contextmanager
    def _booked(self) -> Iterator[Booking]:
        """Holds the question's place and memory until its last job in a thread has ended. Raises CapacityError."""
        self.admission.use(self._runtime.settings.limits)
        booking = self.admission.begin()
        try:
            yield booking
        finally:
            self._runtime.engine.once_running_jobs_end(booking.release)

    async def _opened(self, files: Sequence[bytes], booking: Booking) -> tuple[Image.Image, ...]:
        """Returns the images. What opening and preparing one will take is booked before a pixel of it is decoded."""
        engine, opened = self._runtime.engine, []
        for index, data in enumerate(files):
            name = f"image {index + 1}" if len(files) > 1 else "the picture"
            header = await asyncio.to_thread(
                inspect_picture, data, name
            )  # one that is being opened must not hold it up
            kept_bytes = OPENED_BYTES * header.width * header.height
            prepared_bytes = kept_bytes + engine.part.preparation_bytes(header.width, header.height)
            booking.take(max(header.decoded_bytes, prepared_bytes))
            opened.append(await engine.aside(read_picture, data, name))
        return tuple(opened)

    async def _planned(
        self, question: Question, prompt: Prompt, links: Sequence[CloudLink], booking: Booking
    ) -> tuple[AnswerRun, PlanChosen]:
        """Returns a run under the plan that is chosen. Raises UsageError, PrivacyRefused, PeerUnavailable."""
        planner, runtime = self._planner, self._runtime
        link = links[0] if links else None
        estimate = link.estimate() if link else None
        names = await self._prefix_names(link, prompt)
        if link is not None:
            link.meter.on_question()
            planner.spent(link.meter.take_bytes())
        cached = link.prefixes.find(names[:1]) if link else None
        usable = cloud_is_usable(link.health if link else None, can_finish_alone=planner.can_finish_alone)
        choice = planner.choose(question.plan, estimate, usable, cached.plan if cached else None)
        assert choice.plan is not None, "it raises where there is none"
        check_crossing(runtime.engine.part.model, choice.plan.cut, question.sampling)
        max_new_tokens = question.max_new_tokens or runtime.settings.planning.max_new_tokens
        run = AnswerRun(
            runtime.engine,
            runtime.privacy,
            PlannedQuestion(choice.plan, prompt, max_new_tokens, names, question.sampling),
            CloudNodes(tuple(links), runtime.clouds.on_fault),
            self._fallbacks(choice, num_standby=len(links[1:])),
            booking.take,
        )
        return run, PlanChosen(choice, estimate)

    async def _prefix_names(self, link: CloudLink | None, prompt: Prompt) -> tuple[bytes, ...]:
        """Returns the names by which the cloud node may keep the prompt's prefix, or has those of its first images; none where
        it may not.
        """
        runtime = self._runtime
        may_keep = runtime.settings.planning.prefix_cache and runtime.privacy.may_cache_prefix
        return (
            await runtime.engine.aside(link.prefixes.names_of, prompt.images) if link is not None and may_keep else ()
        )

    async def _warning(self, prompt: Prompt) -> str:
        """Returns what speaks against the answer: an image unlike those that the model knows; empty where nothing does."""
        model = self._runtime.settings.model.name
        for image in prompt.images:
            if warning := await asyncio.to_thread(warning_about, model, image):
                return warning
        return ""

    def _fallbacks(self, choice: Choice, *, num_standby: int) -> Fallbacks:
        """Returns what is done where the plan's side is slow or fails.

        A silent cloud node is waited for as long as it takes where nobody could take over.
        """
        alone, silence_timeout_s = self._planner.can_finish_alone, None
        if num_standby or alone:
            silence_timeout_s = self._failure_detector.limit_s(choice.conservative_s, time.monotonic())
        return Fallbacks(choice.hedge_after_s, alone, silence_timeout_s)

    @contextlib.contextmanager
    def _audited(self, report: RequestReport) -> Iterator[None]:
        """Writes what left the device for the answer, however it ends."""
        outcome = "unfinished"
        try:
            yield
            outcome = "answered"
        finally:
            if self._audit is not None:
                self._audit.write(report, self._runtime.privacy.leak(report.plan), outcome)

    def _note(self, report: RequestReport) -> None:
        self._runtime.count(report.plan)
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


def cloud_is_usable(health: NodeHealth | None, *, can_finish_alone: bool) -> bool:
    """Returns whether a plan may need the cloud node. One without room is waited for only where the device cannot answer."""
    return health is not None and health.reachable and (health.has_room or not can_finish_alone)
