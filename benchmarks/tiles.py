"""What sending a picture tile by tile saves: `python benchmarks/tiles.py [--runs 5] [--slowdown 1]`. The last line is JSON.

    ratio = median(by tile) / median(whole)       seconds from the question's arrival to the first token

- The embedded model with a processor that cuts pictures in tiles (1024 px: 17 tiles, 1088 visual tokens), as SmolVLM's does.
  It was not taught to: its answers mean nothing here, and times and bytes are what they are.
- by tile: each part is coded and sent while the tower runs the next tile; the cloud node decodes what is there. whole: the
  boundary is coded when the tower has run them all, and sent as one payload. Same nodes, same session, in turn (A B A B ...).
- Real: the cloud node's process, mutual TLS, sockets. Emulated: the uplink (constant rates), and the device, whose stages
  take `--slowdown` times as long. Device and cloud share this machine: what the cloud computes while the tower runs slows
  the tower, and a slow-down multiplies that, which two machines would not see.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

from PIL import Image

from edge_node.cloud.cloud_request import AnswerSpec, CloudRequest
from edge_node.cloud.exchange import Exchange
from edge_node.cloud.link import CloudLink
from edge_node.cloud.payload import Payload
from edge_node.cloud.segments import Segments
from edge_node.engine import DeviceEngine
from edge_node.node import compatibility_of
from splitvlm.bundle import Bundle, open_bundle
from splitvlm.codec.calibration_file import FILE as CALIBRATION_FILE
from splitvlm.crypto.identity import Role
from splitvlm.domain import Plan
from splitvlm.errors import SplitvlmError
from splitvlm.files.text import read_json
from splitvlm.host_port import host_and_port
from splitvlm.link.emulator import LinkEmulator, LinkShape
from splitvlm.link.traces import Trace
from splitvlm.model.loading import load_device, read_spec
from splitvlm.model.prompt import Prompt
from splitvlm.scenes import MODEL_DIR
from splitvlm.scenes.samples import samples
from splitvlm.tools.launcher import Launcher

EDGE_PIXELS = 1024
TILE_PIXELS = 256
CONTEXT_TOKENS = 2048
RATES_BPS = (1.6e6, 400e3)
PLANS = ("tokens/klt2", "tokens/int4", "vision:3/int4")
RTT_S = 0.05

Way = Callable[[Plan], Awaitable[Payload]]


class EmulatedDevice:
    """Is a device in this process, whose link goes through the emulator."""

    def __init__(self, engine: DeviceEngine, link: CloudLink, picture: Image.Image, question: str) -> None:
        self._engine, self._link = engine, link
        self._asked = picture, question

    async def by_tile(self, plan: Plan) -> Payload:
        run, _ = await self._engine.begin(Prompt.about(*self._asked), plan)

        async def make(tile_index: int) -> bytes:
            tile, _ = await self._engine.tile(run, tile_index)
            return (await self._engine.encode(tile, plan))[0]

        segments = Segments(run.num_tiles, make)
        await segments.segment(0)
        return Payload(plan, segments)

    async def whole(self, plan: Plan) -> Payload:
        run, _ = await self._engine.begin(Prompt.about(*self._asked), plan)
        await self._engine.tile(run, run.num_tiles - 1)
        return Payload(plan, Segments.of((await self._engine.encode(run.boundary, plan))[0]))

    async def ask(self, way: Way, plan: Plan) -> tuple[float, int, int]:
        """Returns the seconds to the first token, bytes sent, the token."""
        exchange, started_s = Exchange(), time.perf_counter()
        request = CloudRequest(await way(plan), AnswerSpec(1, self._engine.vocabulary))
        answer = self._link.answer(request, exchange)
        first_id = await anext(answer)
        first_s = time.perf_counter() - started_s
        assert [token async for token in answer] == [], "one token was asked for"
        return first_s, exchange.bytes_sent, first_id


async def measured(folder: Path, options: argparse.Namespace) -> list[dict[str, object]]:
    model = str(in_tiles(folder / "model"))
    picture, question = next(samples(1, "scenes"))
    picture = picture.resize((EDGE_PIXELS, EDGE_PIXELS))
    rows = []
    async with Launcher(folder) as launcher:
        bundle = calibrated_alike(model, folder / "bundle")
        chosen = {"name": model, "bundle": str(bundle.target), "threads": 1}
        cloud = await launcher.start("cloud", {"model": chosen})
        part = load_device(model, [Plan.parse(plan).cut for plan in PLANS], threads=1)
        engine = DeviceEngine(part, bundle.codec, options.slowdown)
        agreed = compatibility_of(read_spec(model), engine.codec, "float32")
        fast = Trace.constant(RATES_BPS[0])
        async with LinkEmulator(
            ("127.0.0.1", 0), host_and_port(cloud.address), LinkShape(fast, delay_s=RTT_S / 2)
        ) as emulator:
            address, identity = f"127.0.0.1:{emulator.port}", launcher.identity("edge-1", Role.EDGE)
            link = CloudLink(address, agreed, identity, [])
            bench = EmulatedDevice(engine, link, picture, question)
            try:
                for rate_bps in RATES_BPS:
                    emulator.up.bottleneck.turn(Trace.constant(rate_bps))
                    rows += [await compared(bench, Plan.parse(plan), rate_bps, options.runs) for plan in PLANS]
            finally:
                engine.close()
                await link.close()
    return rows


async def compared(bench: EmulatedDevice, plan: Plan, rate_bps: float, runs: int) -> dict[str, object]:
    ways, tokens = {"whole": bench.whole, "by_tile": bench.by_tile}, set[int]()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    sent: dict[str, int] = {}
    for run in range(runs + 1):
        for name, way in ways.items():
            took_s, sent[name], token_id = await bench.ask(way, plan)
            tokens.add(token_id)
            if run:  # the first warms up
                seconds[name].append(took_s)
    whole_s, by_tile_s = median(seconds["whole"]), median(seconds["by_tile"])
    print(
        f"{rate_bps / 1e3:7,.0f} kbit/s  {plan!s:15s} whole {whole_s:6.3f} s {sent['whole']:7,d} bytes; "
        f"by tile {by_tile_s:6.3f} s {sent['by_tile']:7,d} bytes; ratio {by_tile_s / whole_s:.3f}",
        flush=True,
    )
    return {
        "uplink_bps": rate_bps,
        "plan": str(plan),
        "whole_s": round(whole_s, 4),
        "by_tile_s": round(by_tile_s, 4),
        "ratio": round(by_tile_s / whole_s, 4),
        "whole_bytes": sent["whole"],
        "by_tile_bytes": sent["by_tile"],
        "same_token": len(tokens) == 1,
    }


def in_tiles(folder: Path) -> Path:
    """Makes the embedded model in a folder, with a processor that cuts pictures."""
    shutil.copytree(MODEL_DIR, folder)
    for name in ("preprocessor_config.json", "processor_config.json"):
        file = folder / name
        settings = read_json(file)
        for part in (settings, settings.get("image_processor", {})):
            if "do_image_splitting" in part:
                part |= {"do_image_splitting": True, "size": {"longest_edge": EDGE_PIXELS}}
                part["max_image_size"] = {"longest_edge": TILE_PIXELS}
        file.write_text(json.dumps(settings))
    config = read_json(folder / "config.json")
    config["text_config"]["max_position_embeddings"] = CONTEXT_TOKENS
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def calibrated_alike(model: str, folder: Path) -> Bundle:
    """Makes a bundle of the model, whose weights are the embedded model's, with that model's calibration."""
    calibration = open_bundle("scenes").file(CALIBRATION_FILE)
    assert calibration is not None, "it comes with the package"
    bundle = open_bundle(model, folder, to_write=True)
    with bundle.replacing(CALIBRATION_FILE) as path:
        shutil.copyfile(calibration, path)
    return bundle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each way, after a warm-up")
    parser.add_argument("--slowdown", type=float, default=1.0, help="of the device's stages")
    options = parser.parse_args()
    print(f"Emulated: a device {options.slowdown:g} times as slow, constant uplinks, {RTT_S * 1e3:.0f} ms round trip.")
    with tempfile.TemporaryDirectory(prefix="splitvlm-tiles-") as folder:
        try:
            rows = asyncio.run(measured(Path(folder), options))
        except SplitvlmError as error:
            sys.exit(f"tiles.py: {error}")
    print(json.dumps({"benchmark": "tiles", "slowdown": options.slowdown, "links": rows}))


if __name__ == "__main__":
    main()
