"""Law 2: a request's bytes as the device accounts for them, against the TCP bytes that the link emulator carried.

What `splitvlm.local_model` computes for the request without any node is this, byte for byte.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from splitvlm.crypto.identity import Role
from splitvlm.domain import CutKind, Plan
from splitvlm.host_port import host_and_port
from splitvlm.link.emulator import LinkEmulator, LinkShape
from splitvlm.link.traces import Trace
from splitvlm.local_model import LocalModel
from splitvlm.model.prompt import Prompt
from tests.nodes import Cloud, Keys, cloud_node, device
from tests.samples import PICTURE, tiny_model

REQUESTS = 10
QUESTION, TOKENS = "Is there a lake?", 4
# A request's messages cross in a handful of TLS records (22 bytes each) and HTTP/2 frames (9 bytes, 5 more a message), and each
# token that comes back is answered by a window update or a ping (17 + 22 bytes).
OVERHEAD_BYTES = 700
OVERHEAD_SHARE = 0.02


@pytest.mark.parametrize("text", ["image/jpeg90", "tokens/lossless", "vision:1/lossless", "lm:1/lossless"])
async def test_accounted_bytes_are_those_that_cross(text: str, tmp_path: Path) -> None:
    plan = Plan.parse(text)
    keys, model = Keys(tmp_path / "keys"), tiny_model("scenes-like")
    async with cloud_node(model, keys) as cloud:
        link = LinkEmulator(("127.0.0.1", 0), host_and_port(cloud.address), LinkShape(Trace.constant(50e6)))
        async with link:
            near = Cloud(f"127.0.0.1:{link.port}", cloud.servicer, cloud.worker, cloud.compatibility)
            async with device(model, near, keys.identity("edge-1", Role.EDGE)) as camera:
                await camera.ask(text, PICTURE, QUESTION, TOKENS)  # opens the session, which is counted apart
                before = link.up.delivered_bytes
                accounts = [await camera.ask(text, PICTURE, QUESTION, TOKENS) for _ in range(REQUESTS)]
                crossed = link.up.delivered_bytes - before
    local = LocalModel.load(model, [plan.cut])
    # At `lm:k` a device may send the step of the last token, too, before it hears that this was the last.
    expected = {
        local.answer(Prompt.about(PICTURE, QUESTION), plan, tokens).wire_bytes for tokens in (TOKENS, TOKENS + 1)
    }
    assert len(expected) == (2 if plan.cut.kind is CutKind.LM else 1)
    assert {report.exchange.bytes_sent for report in accounts} <= expected
    accounted = sum(report.exchange.bytes_sent for report in accounts)
    assert accounted <= crossed <= accounted * (1 + OVERHEAD_SHARE) + REQUESTS * OVERHEAD_BYTES
