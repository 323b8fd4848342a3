"""Translates what applications send and get over gRPC to values of this process and back."""

from __future__ import annotations

import secrets
from dataclasses import replace

from edge_node.answering.events import Answered, AnswerEvent, AnswerText, LikelyToken, PlanChosen, ShownToken
from edge_node.answering.question import Question
from edge_node.answering.report import Fault, RequestReport
from edge_node.answering.side import Side
from edge_node.planner import Planner
from edge_node.runtime import Runtime
from splitvlm.rpc.conversation import conversation_of
from splitvlm.rpc.sampling import sampling_of, sampling_to_wire
from splitvlm.wire.v1 import local_pb2 as pb

SEED_BITS = 32  # of a drawn seed: few enough to be typed again, and exact in every JSON reader


def question_from_wire(message: pb.Question) -> Question:
    """Returns a question as it was asked, with a seed that is drawn here where it needs one. Raises UsageError."""
    sampling = sampling_of(message, secrets.randbits(SEED_BITS))
    return Question(
        conversation_of(message.conversation),
        tuple(message.images),
        message.plan,
        message.max_new_tokens,
        sampling,
        tuple(message.stop),
    )


def event_to_wire(event: AnswerEvent) -> pb.Answer:
    """Returns the message of an event."""
    match event:
        case PlanChosen():
            return pb.Answer(chosen=_chosen(event))
        case AnswerText(text, tokens):
            return pb.Answer(text=text, tokens=map(_token, tokens))
        case Answered(report, warning):
            return pb.Answer(report=report_to_wire(report, warning))


def _token(token: ShownToken) -> pb.ShownToken:
    return pb.ShownToken(chosen=_likely(token.chosen), top=map(_likely, token.top))


def _likely(token: LikelyToken) -> pb.LikelyToken:
    return pb.LikelyToken(id=token.token_id, text=token.text, logprob=token.logprob)


def _chosen(event: PlanChosen) -> pb.Chosen:
    choice, link = event.choice, event.link
    return pb.Chosen(
        plan=str(choice.plan),
        reason=choice.reason,
        uplink_bps=link.uplink_bps if link else 0.0,
        rtt_s=link.rtt_s if link else 0.0,
        predicted_s=choice.predicted_s,
        hedge_after_s=choice.hedge_after_s,
    )


def report_to_wire(report: RequestReport, warning: str = "") -> pb.RequestReport:
    """Returns the message of a report. Seconds stay seconds."""
    cloud = report.exchange.cloud
    return pb.RequestReport(
        request_id=report.request_id,
        plan=str(report.plan),
        bytes_sent=report.exchange.bytes_sent,
        bytes_received=report.exchange.bytes_received,
        first_token_s=report.first_token_s,
        total_s=report.total_s,
        device_s=report.device_s,
        encode_s=report.encode_s,
        upload_s=report.upload_s,
        decode_s=cloud.decode_s,
        queue_s=cloud.queue_s,
        prefill_s=cloud.prefill_s,
        tokens_s=cloud.tokens_s + report.device_tokens_s,
        tokens=len(report.token_ids),
        token_ids=report.token_ids,
        emulated_slowdown=report.emulated_slowdown,
        hedged=report.hedged,
        answered_by=str(report.answered_by or ""),
        answered_node=report.answered_node if report.answered_by is Side.CLOUD else "",
        hedge_s=report.hedge_s,
        prefix_cached=report.prefix_cached,
        faults=[_fault(fault) for fault in report.faults],
        prompt_tokens=report.prompt.tokens,
        image_tokens=report.prompt.image_tokens,
        cached_tokens=report.prompt.cached_tokens,
        finish_reason=report.finish_reason,
        warning=warning,
        choices=[pb.ChoiceProbability(text=each.text, probability=each.probability) for each in report.choices],
        sampling=sampling_to_wire(replace(report.sampling, constraint=None)),
    )


def _fault(fault: Fault) -> pb.Fault:
    return pb.Fault(
        code=fault.code,
        sentence=fault.sentence,
        node=fault.node,
        tokens=fault.tokens,
        silent_s=fault.silent_s,
        recovery_s=fault.recovery_s,
    )


def status_to_wire(runtime: Runtime, planner: Planner) -> pb.StatusReply:
    """Returns what the node says of itself: its model, its cloud node, its table, its link."""
    link, table = runtime.clouds.link, planner.table
    estimate = link.estimate() if link else None
    return pb.StatusReply(
        model=runtime.settings.model.name,
        cloud_address=link.address if link else "",
        cloud_reachable=link.health.reachable if link else False,
        orchestrator_reachable=runtime.orchestrator_reachable,
        table_version=table.version if table else 0,
        uplink_bps=estimate.uplink_bps if estimate else 0.0,
        rtt_s=estimate.rtt_s if estimate else 0.0,
        spread=estimate.spread if estimate else 0.0,
        standby=[other.address for other in runtime.clouds.standby],
        plans=[
            pb.PlanStatus(plan=str(line.plan), accuracy_drop=line.accuracy_drop, leak=runtime.privacy.leak(line.plan))
            for line in (table.lines if table else ())
        ],
        notice=planner.notice,
    )
