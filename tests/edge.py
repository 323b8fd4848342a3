"""A whole edge node inside the test process: its port for applications, and a cloud node behind a counted link."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_node.answering.answerer import Answerer
from edge_node.audit import AuditLog
from edge_node.cloud.fleet import CloudFleet, Dialling
from edge_node.engine import DeviceEngine
from edge_node.local.servicer import LocalServicer
from edge_node.node import SERVICE, take_settings
from edge_node.planner import Planner
from edge_node.privacy import PrivacyDoor
from edge_node.runtime import Runtime
from edge_node.settings import EdgeSettings, Privacy
from splitvlm.bundle import open_bundle
from splitvlm.crypto.identity import Role
from splitvlm.domain import TOKENS, Conversation, Plan
from splitvlm.host_port import host_and_port
from splitvlm.link.emulator import LinkEmulator, LinkShape
from splitvlm.link.traces import Trace
from splitvlm.planning.costs import CostLine
from splitvlm.planning.kinds import KindDrop
from splitvlm.planning.table import PlanTable
from splitvlm.rpc.local_client import EdgeClient
from splitvlm.rpc.servers import NodeServer
from splitvlm.wire.v1 import local_pb2 as pb
from splitvlm.wire.v1 import local_pb2_grpc
from tests.nodes import Cloud, Keys, cloud_node, device_part
from tests.samples import PICTURE, tiny_model

QUESTION = "How many cells are infected?"
LEAKS = {Plan(TOKENS, "int4"): 0.4, Plan(TOKENS, "lossless"): 0.9}


def line(plan: str, seconds: float) -> CostLine:
    """A plan that costs so much wherever it runs: the table makes the cloud's a hundred times as quick."""
    sends = int(plan != "device")
    costs = (seconds, 0, 100 * sends, 0, 0, 0, 0, sends, 0, 0)
    return CostLine(Plan.parse(plan), *costs, accuracy_drop=0.0, leak=0.0, worst_kind=KindDrop("any", 0.0))


TABLE = PlanTable(1, (line("image/lossless", 0.01), line("tokens/int4", 0.02), line("device", 1.0)))


@dataclass
class Node:
    """An edge node in this process: its port for applications, and the counted link that it would dial."""

    client: EdgeClient
    runtime: Runtime
    planner: Planner
    clouds: list[Cloud]
    link: LinkEmulator
    audit: Path
    answerer: Answerer

    def settings(self, privacy: Privacy) -> None:
        new = self.runtime.settings.model_copy(update={"privacy": privacy})
        take_settings(new, self.runtime.engine.part.cuts, self.runtime, self.planner)

    async def ask(self, **more: Any) -> pb.RequestReport:
        buffer, report = io.BytesIO(), pb.RequestReport()
        PICTURE.save(buffer, "PNG")
        async for answer in self.client.ask(
            Conversation.about(QUESTION), [buffer.getvalue()], **{"max_new_tokens": 4} | more
        ):
            report = answer.report if answer.HasField("report") else report
        return report

    @property
    def nothing_left(self) -> bool:
        return (self.link.up.delivered_bytes, self.link.counters()["connections"]) == (0, 0)

    def audited(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.audit.read_text().splitlines()]


@contextlib.asynccontextmanager
async def edge_node(tmp_path: Path, privacy: Privacy | None = None) -> AsyncIterator[Node]:
    """With two cloud nodes behind one counted link each; the second shares the first's."""
    model, keys = tiny_model("scenes-like"), Keys(tmp_path / "keys")
    audit = tmp_path / "audit" / "log.jsonl"
    async with contextlib.AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(cloud_node(model, keys))
        upstream = host_and_port(cloud.address)
        link = await stack.enter_async_context(LinkEmulator(("127.0.0.1", 0), upstream, LinkShape(Trace.constant(1e8))))
        privacy = privacy or Privacy()
        door = PrivacyDoor(privacy, LEAKS)
        settings = EdgeSettings(privacy=privacy)
        part = device_part(model)
        engine = DeviceEngine(part, open_bundle(model).codec)
        identity = keys.identity("edge-1", Role.EDGE)
        cuts = [str(cut) for cut in part.cuts]
        runtime = Runtime(settings, engine, door, CloudFleet(Dialling(cloud.compatibility, identity, cuts), door))
        stack.push_async_callback(runtime.close)
        planner = Planner(settings.planning, part.cuts, engine.codec, door)
        planner.table = TABLE
        server = NodeServer(identity, [SERVICE], 2**22)
        answerer = Answerer(runtime, planner, AuditLog(audit, 4_096))
        servicer = LocalServicer(answerer, runtime, planner, plaintext=False)
        local_pb2_grpc.add_LocalServicer_to_server(servicer, server.grpc)
        address = await server.listen("127.0.0.1:0")
        stack.push_async_callback(server.drain, 1.0)
        client = EdgeClient(address, keys.identity("app", Role.APP))
        stack.push_async_callback(client.close)
        runtime.clouds.use([f"127.0.0.1:{link.port}"])
        yield Node(client, runtime, planner, [cloud], link, audit, answerer)
