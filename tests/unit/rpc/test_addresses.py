"""Plaintext stays on the machine, by what an address means and not by how it begins."""

from __future__ import annotations

import pytest

from splitvlm.crypto.identity import Role
from splitvlm.errors import ConfigError, UsageError
from splitvlm.rpc.addresses import parsed, require_loopback
from splitvlm.rpc.channels import open_channel
from splitvlm.rpc.servers import NodeServer

LOOPBACK = [
    "127.0.0.1:7442",
    "127.8.9.10:1",
    "localhost:7442",
    "LocalHost.:7442",
    "[::1]:7442",
    "[::ffff:127.0.0.1]:7442",
]
ELSEWHERE = [
    "127.0.0.1.evil.example:7442",
    "127.evil.example:7442",
    "127.1:7442",  # a resolver may read it as an address, or look it up
    "localhost.evil.example:7442",
    "notlocalhost:7442",
    "[::1.evil.example]:7442",
    "0.0.0.0:7442",
    "[::]:7442",
    "[::ffff:10.0.0.1]:7442",
    "[::ffff:0.0.0.0]:7442",
    "10.127.0.1:7442",
    "2130706433:7442",
    "dns:127.0.0.1:7442",
]


@pytest.mark.parametrize("address", LOOPBACK)
async def test_loopback_is_taken_in_plaintext(address: str) -> None:
    require_loopback(address, "listen")
    await open_channel(address, None, Role.EDGE).close()


@pytest.mark.parametrize("address", ELSEWHERE)
async def test_what_is_not_loopback_is_refused_in_plaintext(address: str) -> None:
    with pytest.raises(ConfigError, match="not loopback"):
        open_channel(address, None, Role.EDGE)
    with pytest.raises(ConfigError, match="not loopback"):
        await NodeServer(None, []).listen(address)


@pytest.mark.parametrize("address", ["127.0.0.1:72978", "127.0.0.1:99999", ":7442", "127.0.0.1", "127.0.0.1:-1", ""])
async def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="not an address"):
        open_channel(address, None, Role.EDGE)
    with pytest.raises(UsageError, match="not an address"):
        await NodeServer(None, []).listen(address)


@pytest.mark.parametrize(("address", "target"), [("[::1]:80", "[::1]:80"), ("a.example:443", "a.example:443")])
def test_grpc_reads_the_host_and_port_that_were_checked(address: str, target: str) -> None:
    assert parsed(address)[1] == target


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
async def test_a_server_says_where_it_listens(address: str) -> None:
    server = NodeServer(None, [])
    said = await server.listen(address)
    host, port = address.rsplit(":", 1)
    assert said.startswith(f"{host}:")
    assert said.rsplit(":", 1)[1] not in (port, "")
    await server.drain(0.0)
