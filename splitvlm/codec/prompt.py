"""A prompt's token ids beside calibrated features: what both sides know of every prompt is not sent.

A chat template puts the same ids before and after each question (the picture's image tokens among them), and calibration
notes them. What remains are the question's own ids, as digits of one number:

    own := count varint · number (big-endian, as many bytes as the largest of `count` digits takes)

in base `vocabulary`: 9.1 bits for each id of 566, where whole bits would take 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from splitvlm.codec.header import Cursor, malformed, varint

MOST_OWN: Final = 512  # ids of a question: the number's arithmetic grows with its square
LARGEST_VOCABULARY: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class Template:
    """Holds the ids before and after a question, and the size of the vocabulary."""

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    vocabulary: int = LARGEST_VOCABULARY

    def encode(self, ids: Sequence[int]) -> bytes | None:
        """Codes a prompt's ids against the template; None where they do not follow it."""
        start, stop = len(self.before), len(ids) - len(self.after)
        own = ids[start:stop] if start <= stop else ids
        if (*self.before, *own, *self.after) != tuple(ids) or len(own) > MOST_OWN:
            return None
        if not all(0 <= token_id < self.vocabulary for token_id in own):
            return None
        number = 0
        for token_id in own:
            number = number * self.vocabulary + token_id
        return varint(len(own)) + number.to_bytes(self._num_bytes(len(own)), "big")

    def length(self, cursor: Cursor, most: int) -> int:
        """Reads how many ids follow, at most so many; the cursor stands behind that number. Raises ProtocolError."""
        known = len(self.before) + len(self.after)
        if known > most:
            malformed("its prompt is too long")
        return known + cursor.varint(min(MOST_OWN, most - known), "the number of ids")

    def decode(self, cursor: Cursor, most: int) -> list[int]:
        """Reads at most so many ids. Raises ProtocolError."""
        count = self.length(cursor, most) - len(self.before) - len(self.after)
        number = int.from_bytes(cursor.take(self._num_bytes(count)), "big")
        own = []
        for _ in range(count):
            number, token_id = divmod(number, self.vocabulary)
            own.append(token_id)
        if number:
            malformed("its ids are beyond the vocabulary")
        return [*self.before, *reversed(own), *self.after]

    def _num_bytes(self, count: int) -> int:
        largest: int = self.vocabulary**count - 1
        return (largest.bit_length() + 7) // 8


NO_TEMPLATE: Final = Template()


def template_of(prompts: Sequence[Sequence[int]], vocabulary: int) -> Template:
    """Returns what prompts with different questions have in common, at both ends."""
    shortest = min(map(len, prompts))
    before = _common(prompts, shortest)
    after = _common([prompt[::-1] for prompt in prompts], shortest - len(before))
    return Template(tuple(before), tuple(reversed(after)), vocabulary)


def _common(prompts: Sequence[Sequence[int]], most: int) -> list[int]:
    count = next((n for n in range(most) if len({prompt[n] for prompt in prompts}) > 1), most)
    return list(prompts[0][:count])
