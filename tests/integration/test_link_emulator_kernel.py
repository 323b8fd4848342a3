"""The emulator against the kernel's token bucket: the same bytes take as long through both.

A network namespace and a veth pair with `tc ... tbf` stand for the real link. The kernel counts 66 bytes of headers on
each 1514-byte frame and we count payload, so that it is slower by 4.6 %; together with TCP's start, within 10 %.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from splitvlm.link.emulator import LinkEmulator, LinkShape
from splitvlm.link.traces import Trace

pytestmark = pytest.mark.quiet

RATE_BPS, PAYLOAD_BYTES = 2_000_000, 400_000
NAMESPACE, NEAR, FAR = f"link{os.getpid()}", f"ln{os.getpid()}", f"lf{os.getpid()}"
NEAR_IP, FAR_IP = "10.213.87.1", "10.213.87.2"
RECEIVER = """
import socket, sys
listener = socket.create_server((sys.argv[1], 0))
print(listener.getsockname()[1], flush=True)
while True:
    peer, _ = listener.accept()
    total = 0
    while data := peer.recv(65536):
        total += len(data)
    peer.sendall(b"%d" % total)
    peer.close()
"""


def ip_or_skip(command: str) -> None:
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"`{command}` is not possible here: {done.stderr.strip()}")


@pytest.fixture
def shaped_namespace() -> Iterator[str]:
    """A namespace whose address is reached through a token bucket."""
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no `{tool}` here")
    ip_or_skip(f"ip netns add {NAMESPACE}")
    try:
        ip_or_skip(f"ip link add {NEAR} type veth peer name {FAR} netns {NAMESPACE}")
        ip_or_skip(f"ip addr add {NEAR_IP}/30 dev {NEAR}")
        ip_or_skip(f"ip link set {NEAR} up")
        ip_or_skip(f"ip -n {NAMESPACE} addr add {FAR_IP}/30 dev {FAR}")
        ip_or_skip(f"ip -n {NAMESPACE} link set {FAR} up")
        ip_or_skip(f"tc qdisc add dev {NEAR} root tbf rate {RATE_BPS}bit burst 3200 limit 1000000")
        yield NAMESPACE
    finally:
        subprocess.run(["ip", "link", "del", NEAR], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", NAMESPACE], capture_output=True, check=False)


def receiver(prefix: list[str], address: str) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen([*prefix, sys.executable, "-c", RECEIVER, address], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


async def transfer_s(address: str, port: int) -> float:
    reader, writer = await asyncio.open_connection(address, port)
    began_s = time.monotonic()
    writer.write(bytes(PAYLOAD_BYTES))
    writer.write_eof()
    assert int(await reader.read()) == PAYLOAD_BYTES
    writer.close()
    return time.monotonic() - began_s


async def test_a_transfer_takes_as_long_as_through_the_kernel_s_token_bucket(shaped_namespace):
    real, real_port = receiver(["ip", "netns", "exec", shaped_namespace], FAR_IP)
    local, local_port = receiver([], "127.0.0.1")
    try:
        kernel_s = await transfer_s(FAR_IP, real_port)
        trace = Trace.constant(RATE_BPS)
        async with LinkEmulator(("127.0.0.1", 0), ("127.0.0.1", local_port), LinkShape(trace)) as link:
            ours_s = await transfer_s("127.0.0.1", link.port)
    finally:
        for process in (real, local):
            process.kill()
            process.communicate()
    print(f"tbf {kernel_s:.3f} s, emulator {ours_s:.3f} s, ratio {ours_s / kernel_s:.3f}")
    assert ours_s == pytest.approx(kernel_s, rel=0.1)
