"""`splitvlm demo --serve`: the demo's processes, link and emulation, which applications ask instead of the demo itself."""

from __future__ import annotations

import tempfile
from pathlib import Path

from splitvlm.crypto.authority import issue
from splitvlm.crypto.identity import Role, load_identity
from splitvlm.domain import TOKENS
from splitvlm.host_port import host_and_port
from splitvlm.link.emulator import LinkEmulator, LinkShape
from splitvlm.link.tracefiles import load_living
from splitvlm.model.loading import read_spec
from splitvlm.node.lifecycle import stop_signals
from splitvlm.rpc.local_client import EdgeClient
from splitvlm.tools.demo import CONTEXT_TOKENS, DELAY_S, LOOPBACK, edge_settings, wait_for_table
from splitvlm.tools.launcher import Launcher

EMBEDDED = "scenes"


async def serve_demo(model: str, port: int, trace: str, slowdown: float) -> None:
    """Starts the processes, prints where the OpenAI API is, and stays until SIGINT or SIGTERM."""
    shaped = load_living(trace).up
    memory = read_spec(model).device_memory_bytes(TOKENS, "float32", CONTEXT_TOKENS)
    with tempfile.TemporaryDirectory(prefix="splitvlm-demo-") as folder, stop_signals() as stop:
        async with Launcher(Path(folder)) as launcher:
            orchestrator = await launcher.start("orchestrator", {"heartbeat_s": 1.0})
            common = {"orchestrator": orchestrator.address}
            cloud = await launcher.start("cloud", common | {"model": {"name": model, "threads": 1}})
            upstream = host_and_port(cloud.address)
            async with LinkEmulator(LOOPBACK, upstream, LinkShape(shaped, delay_s=DELAY_S)) as link:
                settings = served_settings(f"127.0.0.1:{link.port}", model, port, slowdown, memory)
                edge = await launcher.start("edge", common | settings)
                keys = issue(launcher.keys, "app", Role.APP)
                client = EdgeClient(edge.address, load_identity(keys))
                try:
                    await wait_for_table(client)
                finally:
                    await client.close()
                _introduce(edge.facts["http"], edge.address, keys, model, trace, slowdown)
                await stop.wait()


def served_settings(link: str, model: str, port: int, slowdown: float, memory: int) -> dict[str, object]:
    """Returns the edge node's settings. Limits on accuracy hold for the embedded model alone: of others nobody measured any."""
    settings = edge_settings(link, slowdown, memory)
    planning = settings["planning"]
    assert isinstance(planning, dict)
    limits = planning if model == EMBEDDED else {"device_memory_bytes": memory}
    return settings | {
        "model": {"name": model, "threads": 1},
        "planning": limits | {"prefix_cache": True},
        "http": {"listen": f"127.0.0.1:{port}"},
    }


def _introduce(url: str, address: str, keys: Path, model: str, trace: str, slowdown: float) -> None:
    print(
        f"EMULATION: the device's stages are slowed down {slowdown:g} x, and the link is {trace}.\n"
        f"The OpenAI API of {model} is at {url} (Ctrl-C ends it). Over gRPC:\n"
        f"  splitvlm ask IMAGE QUESTION --edge {address} --keys {keys}",
        flush=True,
    )
