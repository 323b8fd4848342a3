"""Sampling says how an answer's tokens are chosen, and what is told of the choice. Greedy is temperature 0."""

from __future__ import annotations

from dataclasses import dataclass

from splitvlm.domain.constraint import AnswerConstraint
from splitvlm.domain.token import MAX_TOP_LOGPROBS
from splitvlm.errors import UsageError

TEMPERATURES = (0.01, 100.0)  # below, scores overflow float32; above, all tokens are alike
MIN_TOP_P = 1e-6
MAX_TOP_K = 1_000_000  # above every vocabulary
PENALTIES = (0.01, 100.0)
MAX_SEED = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Sampling:
    """Says how an answer's tokens are chosen, beside the rules of the model's generation config. Raises UsageError when made.

    At temperature 0 the most likely token is taken (greedy); above it a token is drawn, and the draw depends on `seed` and on
    the token's position in the answer alone.
    """

    temperature: float = 0.0
    top_p: float = 1.0  # draw among the most likely tokens that have this much of the probability together
    top_k: int = 0  # draw among so many of the most likely tokens; 0: among all
    repetition_penalty: float = 1.0  # divides the scores of tokens that the prompt or the answer has already; 1: off
    seed: int = 0
    constraint: AnswerConstraint | None = None  # tokens that no answer under it could go on with are never chosen
    top_logprobs: int | None = (
        None  # log-probabilities of each chosen token and of so many most likely ones; None: of none
    )

    def __post_init__(self) -> None:
        low, high = TEMPERATURES
        if self.temperature != 0 and not low <= self.temperature <= high:
            raise _outside("temperature", self.temperature, f"0 (greedy), or from {low:g} to {high:g}")
        if not MIN_TOP_P <= self.top_p <= 1:
            raise _outside("top_p", self.top_p, f"from {MIN_TOP_P:g} to 1 (all tokens)")
        if not 0 <= self.top_k <= MAX_TOP_K:
            raise _outside("top_k", self.top_k, f"from 0 (all tokens) to {MAX_TOP_K}")
        low, high = PENALTIES
        if not low <= self.repetition_penalty <= high:
            raise _outside("repetition_penalty", self.repetition_penalty, f"from {low:g} to {high:g}; 1 is off")
        if not 0 <= self.seed <= MAX_SEED:
            raise _outside("seed", self.seed, f"from 0 to {MAX_SEED}")
        if self.top_logprobs is not None and not 0 <= self.top_logprobs <= MAX_TOP_LOGPROBS:
            raise _outside(
                "top_logprobs", self.top_logprobs, f"from 0 (of the chosen token alone) to {MAX_TOP_LOGPROBS}"
            )

    @property
    def draws(self) -> bool:
        """Tells whether tokens are drawn, so that the seed counts."""
        return self.temperature > 0

    @property
    def penalises(self) -> bool:
        """Tells whether the choice reads the ids of the prompt."""
        return self.repetition_penalty != 1

    @property
    def is_greedy(self) -> bool:
        """Tells whether the answer is the model's own greedy one: top_k and top_p always keep the most likely token."""
        return not self.draws and not self.penalises and self.constraint is None


GREEDY = Sampling()


def _outside(name: str, value: float, wanted: str) -> UsageError:
    return UsageError(f"{name} is {value:g}, but must be {wanted}.")
