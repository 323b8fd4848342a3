"""The object `splitvlm` of a reply: the plan, who answered, the bytes, the times, what was cached, what failed."""

from __future__ import annotations

from typing import Any

from edge_node.answering.events import Answered, PlanChosen
from edge_node.answering.report import Fault, RequestReport


def extension_of(chosen: PlanChosen | None, answered: Answered) -> dict[str, Any]:
    """Returns what happened to a request. Times are seconds; those of the device include an emulated slow-down."""
    report = answered.report
    sampling = report.sampling
    return {
        "request_id": report.request_id,
        "plan": str(report.plan),
        "reason": chosen.choice.reason if chosen else "",
        "answered_by": str(report.answered_by or ""),
        "bytes_sent": report.exchange.bytes_sent,
        "bytes_received": report.exchange.bytes_received,
        "prefix_cached": report.prefix_cached,
        "cached_tokens": report.prompt.cached_tokens,
        "hedged": report.hedged,
        "seed": sampling.seed if sampling.draws else None,
        "emulated_slowdown": report.emulated_slowdown,
        "choices": {choice.text: choice.probability for choice in report.choices},
        "times_s": _times(report),
        "faults": [_fault(fault) for fault in report.faults],
        "warning": answered.warning,
    }


def _times(report: RequestReport) -> dict[str, float]:
    cloud = report.exchange.cloud
    return {
        "first_token": report.first_token_s,
        "total": report.total_s,
        "device": report.device_s,
        "encode": report.encode_s,
        "upload": report.upload_s,
        "decode": cloud.decode_s,
        "queue": cloud.queue_s,
        "prefill": cloud.prefill_s,
        "tokens": cloud.tokens_s + report.device_tokens_s,
    }


def _fault(fault: Fault) -> dict[str, Any]:
    return {
        "code": fault.code,
        "sentence": fault.sentence,
        "node": fault.node,
        "tokens": fault.tokens,
        "silent_s": fault.silent_s,
        "recovery_s": fault.recovery_s,
    }
