"""What the control plane of a fleet costs: simulated devices and cloud nodes, a real orchestrator process pinned to one core.

    cpu_share = CPU seconds of the orchestrator's process / wall seconds, in the steady state
    death_s   = from a cloud node's end to the arrival of the last device's table without it

- Every simulated node has a certificate, a connection with mutual TLS, and the node's own control client: it registers and
  sends heartbeats as it is told, and each device keeps its plan stream open. Devices start fifty at a time. There is no model:
  profiles come from examples/profiles/scenes.json, in ten kinds of devices, whose profiles differ by a factor.
- Steady state: queues of cloud nodes are drawn around 20 ms, 2 ms apart, and each few seconds one node's rises to 100 ms and
  falls again, which moves devices. Link reports, which come with questions only, are left out.
- A cloud node ends without a word, just after a heartbeat: it sends no more and its connection is
  closed. Three missed heartbeats mean death.
- Unfair: all nodes are in one process on the same machine, so that round trips take no time; what they take of the other
  cores slows nothing down that is measured, as long as there are some.

`python benchmarks/control_plane.py [--edges 1000] [--clouds 10] [--seconds 30]`. Last line: JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psutil
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from splitvlm.crypto.authority import AUTHORITY_KEY_FILE, LOOPBACK
from splitvlm.crypto.certificates import domain_of, names_of_node, node_certificate
from splitvlm.crypto.identity import AUTHORITY_FILE, Identity, Role, private_key
from splitvlm.node.lifecycle import background
from splitvlm.planning.costs import CloudProfile, DeviceProfile
from splitvlm.planning.profiles import slowed
from splitvlm.profiling.profile_file import read
from splitvlm.rpc.control_client import ControlClient
from splitvlm.rpc.profiles import cloud_profile_to_wire, device_profile_to_wire
from splitvlm.tools.launcher import Launcher
from splitvlm.wire.v1 import control_pb2 as pb

PROFILES = Path(__file__).parents[1] / "examples/profiles/scenes.json"
KINDS = 10
AT_ONCE = 50
QUIET_QUEUE_S, NOISE_S, BUSY_QUEUE_S, BUSY_PERIOD_S = 0.02, 0.001, 0.1, 5.0
HEARTBEAT_S = 0.05  # that a heartbeat may take
READY_TIMEOUT_S = 300.0
MIB = 2**20


@dataclass
class SimulatedCloud:
    """Sends heartbeats with a queue that wobbles."""

    number: int
    client: ControlClient
    profile: CloudProfile
    busy: Callable[[], int]  # the number of the node whose queue is long
    heartbeats: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        return f"10.0.{self.number}.1:7442"

    async def run(self) -> None:
        await self.client.stay_registered(
            pb.Registration(
                node=f"cloud-{self.number}",
                role="cloud",
                model="scenes",
                weights_hash="w",
                listen=self.address,
                address=self.address,
                clouds=[cloud_profile_to_wire(self.profile)],
            ),
            self._beat,
        )

    def _beat(self) -> pb.HeartbeatRequest:
        queue_s = BUSY_QUEUE_S if self.busy() == self.number else QUIET_QUEUE_S
        queue_s += random.uniform(-NOISE_S, NOISE_S)
        self.heartbeats.set()
        return pb.HeartbeatRequest(node=f"cloud-{self.number}", queue_us=int(1e6 * queue_s))


@dataclass
class SimulatedDevice:
    """Sends heartbeats and follows its plan stream."""

    number: int
    client: ControlClient
    profile: DeviceProfile
    tables: int = 0
    clouds: frozenset[str] = frozenset()  # addresses in the newest table
    at_s: float = 0.0  # when it came
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        name = f"edge-{self.number}"
        registration = pb.Registration(
            node=name,
            role="edge",
            model="scenes",
            weights_hash="w",
            listen="127.0.0.1:7443",
            devices=[device_profile_to_wire(self.profile)],
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.client.stay_registered(registration, lambda: pb.HeartbeatRequest(node=name)))
            tasks.create_task(self._watch(name))

    async def _watch(self, name: str) -> None:
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                async for table in self.client.stub.WatchPlans(
                    pb.WatchRequest(node=name, instance=self.client.instance)
                ):
                    self.clouds = frozenset({table.cloud_address, *table.standby} - {""})
                    self.tables, self.at_s = self.tables + 1, time.monotonic()
                    self.changed.set()
            await asyncio.sleep(1.0)

    async def until(self, ready: Callable[[frozenset[str]], bool]) -> float:
        """Returns when the newest table became as wanted, in seconds of the clock."""
        while not ready(self.clouds):
            self.changed.clear()
            await self.changed.wait()
        return self.at_s


async def main() -> None:
    options = _options()
    profiles = read(PROFILES)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        async with Launcher(Path(folder)) as launcher:
            node = await launcher.start("orchestrator", {})
            process = psutil.Process(node.process.pid)
            _pin(process)

            def busy() -> int:
                number: int = int((time.monotonic() - began_s) / BUSY_PERIOD_S) % options.clouds
                return number

            def client(name: str, role: Role) -> ControlClient:
                return ControlClient(node.address, _identity(launcher.keys, name, role))

            clouds = [
                SimulatedCloud(n, client(f"cloud-{n}", Role.CLOUD), profiles.clouds[0], busy)
                for n in range(options.clouds)
            ]
            devices = [
                SimulatedDevice(n, client(f"edge-{n}", Role.EDGE), slowed(profiles.devices[0], 1 + n % KINDS))
                for n in range(options.edges)
            ]
            print(f"{options.edges} devices and {options.clouds} cloud nodes have keys")
            result = await _measured(options, process, clouds, devices)
    print(f"The orchestrator takes {100 * result['cpu_share']:.1f} % of a core and {result['memory_mib']:.0f} MiB.")
    print(f"From a cloud node's end to the last device's table without it: {result['death_s']:.2f} s.")
    print(json.dumps(result))


async def _measured(
    options: argparse.Namespace, process: psutil.Process, clouds: list[SimulatedCloud], devices: list[SimulatedDevice]
) -> dict[str, float]:
    async with contextlib.AsyncExitStack() as stack:
        started_s = time.monotonic()
        cloud_tasks = await stack.enter_async_context(background(*(cloud.run() for cloud in clouds)))
        everyone = frozenset(cloud.address for cloud in clouds)
        async with asyncio.timeout(READY_TIMEOUT_S):
            for first in range(0, len(devices), AT_ONCE):
                starting = devices[first : first + AT_ONCE]
                await stack.enter_async_context(background(*(device.run() for device in starting)))
                await asyncio.gather(*(device.until(lambda known: known == everyone) for device in starting))
        ready_s = time.monotonic() - started_s
        print(f"every device knows every cloud node after {ready_s:.1f} s")
        await asyncio.sleep(options.settle)
        tables, used_s, began_s = sum(device.tables for device in devices), _cpu_s(process), time.monotonic()
        await asyncio.sleep(options.seconds)
        share = (_cpu_s(process) - used_s) / (time.monotonic() - began_s)
        tables = sum(device.tables for device in devices) - tables
        memory_mib = process.memory_info().rss / MIB
        dying = clouds[-1]
        dying.heartbeats.clear()
        await dying.heartbeats.wait()
        await asyncio.sleep(HEARTBEAT_S)  # the worst moment is just after a heartbeat
        died_s = time.monotonic()
        cloud_tasks[-1].cancel()
        await dying.client.close()
        arrived_s = await asyncio.gather(
            *(device.until(lambda known: dying.address not in known) for device in devices)
        )
        death_s = max(arrived_s) - died_s
    for client in (*(cloud.client for cloud in clouds), *(device.client for device in devices)):
        await client.close()
    return {
        "edges": options.edges,
        "clouds": options.clouds,
        "ready_s": round(ready_s, 2),
        "cpu_share": round(share, 4),
        "tables_per_s": round(tables / options.seconds, 1),
        "memory_mib": round(memory_mib, 1),
        "death_s": round(death_s, 3),
    }


def _identity(keys: Path, name: str, role: Role) -> Identity:
    """Makes an identity of the launcher's authority, without a folder and a line in its ledger for each of the nodes."""
    authority_pem = (keys / AUTHORITY_FILE).read_bytes()
    authority = x509.load_pem_x509_certificate(authority_pem)
    signing, key = private_key((keys / AUTHORITY_KEY_FILE).read_bytes()), ec.generate_private_key(ec.SECP256R1())
    names = names_of_node(domain_of(authority), role, name, LOOPBACK, serves=False)
    certificate = node_certificate(key.public_key(), names, authority, signing, dt.datetime.now(dt.UTC), days=1)
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Identity(name, role, certificate.public_bytes(Encoding.PEM), key_pem, authority_pem)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _pin(process: psutil.Process) -> None:
    """Gives the orchestrator one core for itself, and this process the others, where there are any."""
    if not hasattr(process, "cpu_affinity"):
        return  # not on this system
    cores = sorted(os.sched_getaffinity(0))
    process.cpu_affinity(cores[:1])
    for thread in _threads(process):
        os.sched_setaffinity(thread, cores[:1])
    if cores[1:]:
        os.sched_setaffinity(0, cores[1:])


def _threads(process: psutil.Process) -> Iterator[int]:
    return (thread.id for thread in process.threads())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=1000)
    parser.add_argument("--clouds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--settle", type=float, default=5.0, help="seconds before the steady state is measured")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
