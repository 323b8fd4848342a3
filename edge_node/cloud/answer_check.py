"""Checks what a cloud node answers, at the one door where it enters the device.

A peer's certificate says who it is, not that it is in order. What it says of tokens, sizes and times is believed only where a
node in order could have said it; anything else is a ProtocolError, after which another node or the device goes on. A node
that chooses wrong tokens of the vocabulary is not found out here.
"""

from __future__ import annotations

from edge_node.cloud.cloud_request import CloudRequest
from edge_node.cloud.exchange import CloudTimes, PromptCount
from edge_node.cloud.uploads import Receipt
from splitvlm.errors import PrefixEvicted, ProtocolError, SplitvlmError
from splitvlm.grammar.grammar import Matcher
from splitvlm.rpc.logprob_checks import wrong_logprobs
from splitvlm.rpc.status import failure
from splitvlm.rpc.tokens import token_of
from splitvlm.wire.v1 import data_pb2 as pb

CLOCKS_DIFFER = 1.05  # two clocks run alike to within 0.01 %; the rest is for timers that begin a moment apart,
CLOCKS_DIFFER_S = 0.05  # and so is this


class AnswerCheck:
    """Follows one request's answer, frame by frame. Every method raises ProtocolError for what no node in order says."""

    def __init__(self, request: CloudRequest, peer: str) -> None:
        self._request = request
        self._answer = request.answer
        self._peer = peer
        self._token_ids = list(request.answer.resume_token_ids)
        self._matcher = request.answer.matcher()

    @property
    def complete(self) -> bool:
        """Tells whether all tokens are there: only the end's message may follow."""
        return self._answer.is_complete(self._token_ids)

    def receipt(self, receipt: pb.Receipt, sent_bytes: int, elapsed_s: float) -> Receipt:
        """Returns a segment's receipt; the segment took `sent_bytes`, sealed, and began `elapsed_s` ago."""
        if receipt.bytes != sent_bytes:
            raise self._wrong(f"confirmed {receipt.bytes} bytes of {sent_bytes}")
        self._require_within(1e-6 * receipt.span_us, elapsed_s)
        return Receipt(receipt.bytes, 1e-6 * receipt.span_us)

    def token(self, token: pb.Token) -> int:
        """Returns the answer's next token id."""
        if self.complete:
            raise self._wrong("went on after the answer's end")
        if token.id >= self._answer.vocabulary.size:
            raise self._wrong("sent a token that the model does not have")
        chosen, matcher = token_of(token), self._matcher
        told, num_top = matcher.told if matcher else (), self._answer.sampling.top_logprobs
        if wrong := wrong_logprobs(chosen, num_top, told, self._answer.vocabulary.size):
            raise self._wrong(wrong)
        if matcher is not None:
            self._take(matcher, chosen)
        self._token_ids.append(chosen)
        return chosen

    def _take(self, matcher: Matcher, token_id: int) -> None:
        try:
            matcher.take(token_id)
        except ProtocolError as error:
            raise self._wrong("sent a token that the answer's constraint does not allow") from error

    def end(self, end: pb.End, elapsed_s: float) -> CloudTimes:
        """Returns what the node says of the whole answer, which was asked for `elapsed_s` ago."""
        longest = len(self._token_ids) == self._answer.max_new_tokens
        if not self.complete or end.reason != (pb.End.REASON_LENGTH if longest else pb.End.REASON_EOS):
            raise self._wrong("ended the answer before its end, or for a wrong reason")
        if end.prefix_stored and not self._request.prefix_name:
            raise self._wrong("caches a prefix that it was not asked to cache")
        times = CloudTimes(
            decode_s=1e-6 * end.decode_us,
            queue_s=1e-6 * end.queue_us,
            prefill_s=1e-6 * end.prefill_us,
            tokens_s=1e-6 * end.tokens_us,
            prefix_stored=end.prefix_stored,
            prompt=PromptCount(end.prompt_tokens, end.image_tokens, end.cached_tokens),
        )
        self._require_within(times.total_s, elapsed_s)
        if end.image_tokens + 1 > end.prompt_tokens or end.cached_tokens + 1 > end.prompt_tokens:
            raise self._wrong("counts more tokens of a kind than the prompt has")
        return times

    def failure(self, failed: pb.Failure) -> SplitvlmError:
        """Returns the error that the node says."""
        error = failure(failed.code, failed.sentence, failed.advice, failed.retry_after_ms)
        resumed = len(self._answer.resume_token_ids)
        was_asked = self._request.payload.prefix_cached and len(self._token_ids) == resumed
        if isinstance(error, PrefixEvicted) and not was_asked:
            return self._wrong("lost a prefix that was not cached")
        return error

    def _require_within(self, told_s: float, elapsed_s: float) -> None:
        if told_s > CLOCKS_DIFFER * elapsed_s + CLOCKS_DIFFER_S:
            raise self._wrong("names times that are longer than the request took")

    def _wrong(self, what: str) -> ProtocolError:
        return ProtocolError(
            f"The {self._peer} {what}.", advice="Its log may say why; another node answers, or the device."
        )
