"""A person's client of the control plane: who is known to the orchestrator."""

from __future__ import annotations

import grpc

from splitvlm.crypto.identity import Identity, Role
from splitvlm.rpc.channels import connected, open_channel
from splitvlm.rpc.limits import CONTROL_TIMEOUT_S
from splitvlm.rpc.status import from_rpc
from splitvlm.wire.v1 import control_pb2 as pb
from splitvlm.wire.v1 import control_pb2_grpc


async def list_nodes(address: str, identity: Identity | None) -> list[pb.NodeStatus]:
    """Returns every node that registered since the orchestrator started, by name. Raises PeerUnavailable and its errors."""
    peer = f"orchestrator at {address}"
    channel = open_channel(address, identity, Role.ORCHESTRATOR)
    try:
        await connected(channel, peer, identity)
        reply: pb.NodeList = await control_pb2_grpc.ControlStub(channel).Nodes(
            pb.NodesRequest(), timeout=CONTROL_TIMEOUT_S
        )
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error, peer) from error
    finally:
        await channel.close()
    return sorted(reply.nodes, key=lambda node: node.node)
