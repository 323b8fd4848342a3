"""One request over an open session: its segments go up, receipts and tokens come back."""

from __future__ import annotations

import asyncio
import time
from enum import Enum, auto

from edge_node.cloud.answer_check import AnswerCheck
from edge_node.cloud.cloud_request import CloudRequest
from edge_node.cloud.exchange import Exchange
from edge_node.cloud.failure_detector import SILENCE_FACTOR
from edge_node.cloud.segment_sender import SegmentSender
from edge_node.cloud.session import CloudSession
from edge_node.token_source import TokenSource
from splitvlm.errors import DeadlineExceeded, PrefixEvicted, ProtocolError
from splitvlm.rpc.limits import CONNECT_TIMEOUT_S, FIRST_TOKEN_TIMEOUT_S, TOKEN_TIMEOUT_S
from splitvlm.wire.v1 import data_pb2 as pb

SLOWEST_UPLINK_BPS = 8_000  # a link below 1 kB/s is an outage: an upload's deadline is its time at that rate


class RequestState(Enum):
    """Says where a request on a session stands."""

    UPLOADING = auto()
    ANSWERING = auto()
    ENDED = auto()  # in order: the session may carry another request


class SessionAnswer(TokenSource):
    """Sends a request, gives its tokens as they come, and fills in the exchange.

    Asking raises a SplitvlmError. A request that does not end in order takes its session with it.
    """

    def __init__(self, session: CloudSession, request: CloudRequest, exchange: Exchange, upload_s: float) -> None:
        """Takes in `upload_s` the predicted time of the largest segment's upload, in seconds."""
        super().__init__()
        self._session = session
        self._request = request
        self._exchange = exchange
        self._upload_s = upload_s
        self._state = RequestState.UPLOADING
        self._check = AnswerCheck(request, session.peer)
        self._sender = SegmentSender(session, request, exchange.upload)
        self._sealed_before = session.stream.bytes_sent, session.stream.bytes_received
        self._unsent_step: int | None = None  # the last token: its boundary goes before the next one is waited for
        self._num_steps = 0

    async def _next(self) -> int | None:
        return await self._session.translated(self._advance())

    async def _close(self) -> None:
        await self._sender.stop()
        stream, (sent_before, received_before) = self._session.stream, self._sealed_before
        self._exchange.bytes_sent += stream.bytes_sent - sent_before
        self._exchange.bytes_received += stream.bytes_received - received_before
        if self._state is not RequestState.ENDED:
            self._session.abandon()

    async def _advance(self) -> int | None:
        try:
            if self._state is RequestState.UPLOADING:
                await self._upload()
                self._state = RequestState.ANSWERING
                return await self._token(self._request.silence_timeout_s or FIRST_TOKEN_TIMEOUT_S)
            if self._unsent_step is not None:
                await self._send_step(self._unsent_step)
            return await self._token(self._request.silence_timeout_s or TOKEN_TIMEOUT_S)
        except PrefixEvicted:
            if self._sender.done:  # the session goes on
                self._state = RequestState.ENDED
            raise

    async def _upload(self) -> None:
        count = self._request.payload.segments.count
        for index in range(count):
            await self._sender.next_begun()
            await self._receipt(last=index == count - 1)
        await self._sender.finish()
        for token_id in self._request.answer.resume_token_ids:
            await self._send_step(token_id)

    async def _receipt(self, *, last: bool) -> None:
        """Waits for the receipt of the oldest segment under way."""
        exchange, upload = self._exchange, self._exchange.upload
        exchange.heard_s = time.perf_counter()
        timeout_s = CONNECT_TIMEOUT_S + 8 * upload.sent_bytes / SLOWEST_UPLINK_BPS
        if self._request.silence_timeout_s is not None:
            slowest_s = SILENCE_FACTOR * self._upload_s * upload.segments_under_way
            timeout_s = self._request.silence_timeout_s + slowest_s
        frame = await self._receive(timeout_s)
        if frame.WhichOneof("body") != "receipt":
            raise ProtocolError(f"The {self._session.peer} answered before it had the whole request.")
        now_s = time.perf_counter()
        sent_bytes, elapsed_s = upload.oldest_segment(self._session.stream.bytes_sent, now_s)
        upload.segment_received(self._check.receipt(frame.receipt, sent_bytes, elapsed_s), now_s, last=last)

    async def _token(self, timeout_s: float) -> int | None:
        asked_s = time.perf_counter()
        frame = await self._receive(timeout_s)
        now_s = time.perf_counter()
        self._exchange.longest_silence_s = max(self._exchange.longest_silence_s, now_s - asked_s)
        match frame.WhichOneof("body"):
            case "token":
                self._unsent_step = self._check.token(frame.token)
                return self._unsent_step
            case "end":
                elapsed_s = now_s - self._exchange.upload.request_began_s
                self._exchange.cloud = self._check.end(frame.end, elapsed_s)
                self._state = RequestState.ENDED
                return None
            case _:
                raise ProtocolError(f"The {self._session.peer} sent a frame that has no place in an answer.")

    async def _send_step(self, token_id: int) -> None:
        """Sends the boundary of a token, at the cuts where each token has one."""
        step, index = self._request.payload.step, self._num_steps
        self._num_steps += 1
        if step is not None:
            await self._session.stream.send(pb.DeviceFrame(step=await step(index, token_id)))

    async def _receive(self, timeout_s: float) -> pb.CloudFrame:
        try:
            async with asyncio.timeout(timeout_s):
                envelope = await self._session.read()
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"The {self._session.peer} did not answer within {timeout_s:.3g} s.",
                advice="Look at its load and at the link.",
            ) from error
        self._exchange.heard_s = time.perf_counter()
        frame = self._session.stream.open(envelope)
        if frame.WhichOneof("body") == "failure":
            raise self._check.failure(frame.failure)
        return frame
