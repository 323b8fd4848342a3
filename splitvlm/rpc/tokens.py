"""An answer's tokens as messages carry them. A plain token is its id and no byte more."""

from __future__ import annotations

from splitvlm.domain import ChosenToken, TokenLogprob
from splitvlm.wire.v1 import data_pb2 as pb


def token_to_wire(token: int) -> pb.Token:
    """Returns the message of a token, with its log-probabilities where it has them."""
    if not isinstance(token, ChosenToken):
        return pb.Token(id=token)
    top = token.top
    return pb.Token(
        id=token,
        logprob=token.logprob,
        top_ids=[each.token_id for each in top],
        top_logprobs=[each.logprob for each in top],
    )


def token_of(message: pb.Token) -> int:
    """Returns the token of a message that was checked."""
    if not message.HasField("logprob"):
        return message.id
    top = tuple(map(TokenLogprob, message.top_ids, message.top_logprobs))
    return ChosenToken(message.id, message.logprob, top)
