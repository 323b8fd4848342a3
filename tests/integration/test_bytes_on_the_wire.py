"""Law 2: a request's bytes as the device accounts for them, against the TCP bytes that the link emulator carried."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitvlm.crypto.identity import Role
from splitvlm.link.emulator import LinkEmulator
from splitvlm.link.traces import Trace
from splitvlm.settings import host_and_port
from tests.nodes import Cloud, Keys, cloud_node, device
from tests.samples import PICTURE, tiny_model

REQUESTS = 10
# A request's messages cross in a handful of TLS records (22 bytes each) and HTTP/2 frames (9 bytes, 5 more a message), and each
# token that comes back is answered by a window update or a ping (17 + 22 bytes).
OVERHEAD_BYTES = 700
OVERHEAD_SHARE = 0.02


@pytest.mark.parametrize("plan", ["image/jpeg90", "tokens/lossless", "vision:1/lossless", "lm:1/lossless"])
async def test_accounted_bytes_are_those_that_cross(plan: str, tmp_path: Path) -> None:
    keys, model = Keys(tmp_path / "keys"), tiny_model("scenes-like")
    async with cloud_node(model, keys) as cloud:
        link = LinkEmulator(("127.0.0.1", 0), host_and_port(cloud.address), Trace.constant(50e6))
        async with link:
            near = Cloud(f"127.0.0.1:{link.port}", cloud.servicer, cloud.worker, cloud.compatibility)
            async with device(model, near, keys.identity("edge-1", Role.EDGE)) as camera:
                await camera.ask(plan, PICTURE, "Is there a lake?", 4)  # opens the session, which is counted apart
                before = link.up.delivered_bytes
                accounts = [await camera.ask(plan, PICTURE, "Is there a lake?", 4) for _ in range(REQUESTS)]
                crossed = link.up.delivered_bytes - before
    accounted = sum(report.exchange.bytes_sent for report in accounts)
    assert accounted <= crossed <= accounted * (1 + OVERHEAD_SHARE) + REQUESTS * OVERHEAD_BYTES
