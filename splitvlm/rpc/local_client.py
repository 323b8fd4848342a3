"""A local application's client of the edge node."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import grpc

from splitvlm.crypto.identity import Identity, Role
from splitvlm.domain import AnswerConstraint, Conversation, Sampling
from splitvlm.rpc.channels import connected, open_channel
from splitvlm.rpc.conversation import conversation_to_wire
from splitvlm.rpc.limits import MAX_LOCAL_MESSAGE_BYTES
from splitvlm.rpc.sampling import sampling_to_wire
from splitvlm.rpc.status import from_rpc
from splitvlm.wire.v1 import local_pb2 as pb
from splitvlm.wire.v1 import local_pb2_grpc

ASK_TIMEOUT_S = 600.0


class EdgeClient:
    """Asks an edge node questions and its status, as an application on the device."""

    def __init__(self, address: str, identity: Identity | None) -> None:
        self._identity = identity
        self.peer = f"edge node at {address}"
        self._channel = open_channel(address, identity, Role.EDGE, max_message_bytes=MAX_LOCAL_MESSAGE_BYTES)
        self._stub = local_pb2_grpc.LocalStub(self._channel)

    async def connect(self, timeout_s: float = 5.0) -> None:
        """Raises PeerUnavailable."""
        await connected(self._channel, self.peer, self._identity, timeout_s)

    async def ask(
        self,
        conversation: Conversation,
        images: Sequence[bytes] = (),
        *,
        max_new_tokens: int = 0,
        plan: str = "",
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        constraint: AnswerConstraint | None = None,
    ) -> AsyncGenerator[pb.Answer, None]:
        """Asks with a conversation and its images' files. Yields the choice of plan, pieces of text, then the report.

        At temperature 0 the answer is greedy. Above it the edge node draws a `seed` that is None; the report says which. Raises
        UsageError for values outside their range (splitvlm.domain.Sampling), and the node's errors.
        """
        sampling = Sampling(temperature, top_p, top_k, repetition_penalty, seed or 0, constraint)
        message = pb.Question(
            conversation=conversation_to_wire(conversation),
            images=images,
            stop=stop,
            max_new_tokens=max_new_tokens,
            plan=plan,
            sampling=sampling_to_wire(sampling, with_seed=seed is not None),
        )
        call = self._stub.Ask(message, timeout=ASK_TIMEOUT_S)
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.peer) from error
        finally:
            call.cancel()  # of a caller that leaves earlier; nothing where it has ended

    async def status(self) -> pb.StatusReply:
        """Returns the edge node's status. Raises SplitvlmError."""
        try:
            status: pb.StatusReply = await self._stub.Status(pb.StatusRequest(), timeout=10.0)
            return status
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.peer) from error

    async def close(self) -> None:
        """Closes the channel to the edge node."""
        await self._channel.close()
