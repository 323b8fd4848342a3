"""Starts nodes as processes of this machine, with fresh keys, and stops them: for demo, `verify`, benchmarks, tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml

from splitvlm.crypto.authority import init_authority, issue
from splitvlm.crypto.identity import Identity, Role, load_identity
from splitvlm.errors import PeerUnavailable
from splitvlm.node.lifecycle import LAUNCHER

READY_TIMEOUT_S = 120.0  # loading and measuring a model of a gigabyte on a slow machine
STOP_TIMEOUT_S = 20.0
_SAYS = "splitvlm: "  # how a node's last sentence begins; what libraries say while they are torn down comes after it
_FACT = re.compile(r"(\S+?)=(\S+)")
_ROLES = {"cloud": Role.CLOUD, "edge": Role.EDGE, "orchestrator": Role.ORCHESTRATOR}


@dataclass
class Node:
    """Holds a running node: its process, and what its ready line said."""

    kind: str
    process: asyncio.subprocess.Process
    log: Path
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Returns host and port on which the process said that it listens."""
        return self.facts["listen"]

    async def stop(self) -> int:
        """Sends SIGTERM, then SIGKILL when it takes too long. Returns the exit code."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
        return await self.process.wait()


class Launcher:
    """Keeps keys, configurations and processes in one folder; everything that was started is stopped at the end.

    `async with Launcher(folder) as launcher: cloud = await launcher.start("cloud", {...})`
    """

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        """`python` is the interpreter of the environment in which the nodes run."""
        self.folder = folder
        self._python = python
        self.keys = folder / "keys"
        self.nodes: list[Node] = []
        init_authority(self.keys)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(node.stop() for node in reversed(self.nodes)))

    def identity(self, name: str, role: Role) -> Identity:
        """Returns a fresh identity for this process."""
        return load_identity(issue(self.keys, name, role))

    async def start(self, kind: str, settings: Mapping[str, object], log: Path | None = None) -> Node:
        """Starts `cloud`, `edge` or `orchestrator` with these settings (keys are added) and waits for its ready line.

        A name that was started before keeps its keys.

        Raises PeerUnavailable, with what the node said, when it ends or is not ready in time.
        """
        name = str(settings.get("node", kind if kind == "orchestrator" else f"{kind}-1"))
        keys = self.keys / name
        if not keys.exists():
            issue(self.keys, name, _ROLES[kind])
        config = self.folder / f"{name}.yaml"
        full = {"node": name, "listen": "127.0.0.1:0", "security": {"keys": str(keys)}, **settings}
        config.write_text(yaml.safe_dump(full), "utf-8")
        log = log or self.folder / f"{name}.log"
        process = await self._spawn((kind, "--config", str(config)), log)
        node = Node(kind, process, log)
        self.nodes.append(node)
        node.facts = await _facts(node)
        return node

    async def _spawn(self, arguments: Sequence[str], log: Path) -> asyncio.subprocess.Process:
        """Runs `splitvlm` with these arguments, its standard output in a pipe, its standard error at the end of `log`."""
        with log.open("ab") as stderr:
            return await asyncio.create_subprocess_exec(
                *(self._python, "-m", "splitvlm.cli", *arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C reaches us only, and we stop the nodes in order
                env=os.environ | {LAUNCHER: str(os.getpid())},
            )


async def _facts(node: Node) -> Mapping[str, str]:
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            async for line in _lines(node):
                if f"splitvlm {node.kind} ready" in line:
                    return dict(_FACT.findall(line))
            await node.process.wait()
    except TimeoutError:
        await node.stop()
    said = node.log.read_text("utf-8", "replace").strip().splitlines()
    last = next((line for line in reversed(said) if line.startswith(_SAYS)), said[-1] if said else "it said nothing")
    raise PeerUnavailable(f"The {node.kind} node did not start: {last.removeprefix(_SAYS)}")


async def _lines(node: Node) -> AsyncIterator[str]:
    assert node.process.stdout is not None
    while line := await node.process.stdout.readline():
        yield line.decode("utf-8", "replace")
