"""`splitvlm ask`, `status` and `nodes`: what running nodes answer, for people and as JSON. Loads no torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from splitvlm.client.messages import ChatMessage, chat
from splitvlm.crypto.identity import Identity
from splitvlm.domain import AnswerConstraint, Choices, Conversation, JsonSchema
from splitvlm.errors import UsageError
from splitvlm.files.shown import percent, rate, shown_or_unknown
from splitvlm.rpc.local_client import EdgeClient
from splitvlm.rpc.nodes import list_nodes
from splitvlm.wire.v1 import local_pb2 as pb


def conversation_of(words: Sequence[str], system: str = "") -> tuple[Conversation, list[bytes]]:
    """Returns the conversation that a command line asks with, and its images' files. The last word is the question.

    Raises UsageError.
    """
    *paths, question = words
    if not paths and Path(question).is_file():
        raise UsageError(f"There is no question about {question}.", advice="Write it after the images.")
    content: list[str | Path] = [*map(Path, paths), question]
    messages: list[ChatMessage] = [{"role": "system", "content": system}] if system else []
    return chat([*messages, {"role": "user", "content": content}])


def constraint_of(json_schema: Path | None, choices: str) -> AnswerConstraint | None:
    """Returns the constraint that a command line names. Raises UsageError."""
    if json_schema is not None and choices:
        raise UsageError("--json-schema and --choices are two forms of an answer.", advice="Give one of them.")
    if json_schema is not None:
        from splitvlm.files.text import read_text

        return JsonSchema(read_text(json_schema, "JSON schema"))
    return Choices(tuple(choice.strip() for choice in choices.split(","))) if choices else None


async def ask_once(
    conversation: Conversation,
    images: Sequence[bytes],
    address: str,
    identity: Identity | None,
    *,
    verbose: bool,
    **wishes: Any,
) -> dict[str, object]:
    """Streams the answer to standard output, and with `verbose` says what happened on standard error.

    `wishes` are the arguments of `EdgeClient.ask` of that name. Returns {"answer", "chosen", "report"}: the text, the plan with
    its reason, and where time and bytes went.
    """
    client = EdgeClient(address, identity)
    text, chosen, report = "", pb.Chosen(), pb.RequestReport()
    try:
        await client.connect()
        async for answer in client.ask(conversation, images, **wishes):
            match answer.WhichOneof("body"):
                case "text":
                    text += answer.text
                    print(answer.text, end="", flush=True)
                case "chosen":
                    chosen = answer.chosen
                case "report":
                    report = answer.report
        print(flush=True)
    finally:
        await client.close()
    if report.warning:
        print(report.warning, file=sys.stderr)
    if verbose:
        print(describe(report, chosen.reason), file=sys.stderr)
    return {"answer": text, "chosen": plain(chosen), "report": plain(report)}


def describe(report: pb.RequestReport, reason: str = "") -> str:
    """Returns what happened to a request: a line, and one more for each node that failed."""
    emulated = f", emulated slow-down {report.emulated_slowdown:g} x" if report.emulated_slowdown > 1 else ""
    known = ", prefix cached" if report.prefix_cached else ""
    hedged = ", with the device beside it" if report.hedged else ""
    first = (
        f"plan {report.plan}{hedged}{f' ({reason})' if reason else ''}, answered by {_who(report)}"
        f"{known}, {report.bytes_sent} bytes sent, first token {_ms(report.first_token_s)} ms, "
        f"total {_ms(report.total_s)} ms (device {_ms(report.device_s)}, encode {_ms(report.encode_s)}, "
        f"upload {_ms(report.upload_s)}, decode {_ms(report.decode_s)}, queue {_ms(report.queue_s)}, "
        f"prefill {_ms(report.prefill_s)}, tokens {_ms(report.tokens_s)}){emulated}{_drawn(report)}"
    )
    return "\n".join([first, *map(_failed, report.faults)])


def _drawn(report: pb.RequestReport) -> str:
    return f", drawn with seed {report.sampling.seed}" if report.sampling.HasField("seed") else ""


def _who(report: pb.RequestReport) -> str:
    where = f" node at {report.answered_node}" if report.answered_node else ""
    return f"the {report.answered_by or 'cloud'}{where}"


def _failed(fault: pb.Fault) -> str:
    who = "the device" if fault.node == "device" else f"the cloud node at {fault.node}"
    return (
        f"{who} failed ({fault.code}) after {fault.tokens} tokens: silent for {_ms(fault.silent_s)} ms, "
        f"taken over in {_ms(fault.recovery_s)} ms. {fault.sentence}"
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f}"


async def show_status(address: str, identity: Identity | None) -> dict[str, object]:
    """Prints an edge node's status; returns its fields by their names on the wire."""
    client = EdgeClient(address, identity)
    try:
        await client.connect()
        status = await client.status()
    finally:
        await client.close()
    print("\n".join(status_lines(status)))
    return plain(status)


def status_lines(status: pb.StatusReply) -> list[str]:
    """Returns an edge node's status for people."""
    cloud = f"{status.cloud_address}, {_reached(status.cloud_reachable)}" if status.cloud_address else "none"
    link = (
        f"{rate(status.uplink_bps)} up, round trip {_ms(status.rtt_s)} ms, predictions within {percent(status.spread, 0)}"
        if status.uplink_bps
        else "not measured yet"
    )
    table = f"{len(status.plans)} (table {status.table_version})" if status.plans else "no plan table yet"
    lines = [
        f"model         {status.model}",
        f"cloud node    {cloud}",
        f"standby       {', '.join(status.standby) or 'none'}",
        f"orchestrator  {_reached(status.orchestrator_reachable)}",
        f"link          {link}",
        f"plans         {table}",
        *(f"  {_plan_line(plan)}" for plan in status.plans),
    ]
    return [*lines, status.notice] if status.notice else lines


def _plan_line(plan: pb.PlanStatus) -> str:
    drop = shown_or_unknown(plan.accuracy_drop if plan.HasField("accuracy_drop") else None, 100, 2)
    leak = shown_or_unknown(plan.leak if plan.HasField("leak") else None, 1, 2)
    return f"{plan.plan:<22} accuracy drop, points: {drop:<9} leak: {leak}"


def _reached(reachable: bool) -> str:
    return "reachable" if reachable else "not reachable"


async def show_nodes(address: str, identity: Identity | None) -> list[dict[str, object]]:
    """Prints the orchestrator's nodes; returns a row for each."""
    from rich.console import Console
    from rich.table import Table

    listed = await list_nodes(address, identity)
    table = Table("node", "role", "state", "last seen", "address", "model")
    for node in listed:
        state = "alive" if node.alive else "silent"
        table.add_row(node.node, node.role, state, f"{node.last_seen_s:.1f} s ago", node.address, node.model)
    if listed:
        Console().print(table)
    else:
        print("No node is registered.")
    return [plain(node) for node in listed]


def plain(message: Message) -> dict[str, object]:
    """Returns a message's fields by name as JSON has them: numbers stay numbers, absent optional ones are None."""
    return {field.name: _plain_field(message, field) for field in message.DESCRIPTOR.fields}


def _plain_field(message: Message, field: Any) -> object:
    value = getattr(message, field.name)
    if field.message_type is not None and isinstance(value, Message):
        return plain(value) if message.HasField(field.name) else None
    if not isinstance(value, str | bytes) and hasattr(value, "__len__"):
        return [plain(item) if isinstance(item, Message) else item for item in value]
    return value if not field.has_presence or message.HasField(field.name) else None
