"""Holds what was seen of one request on the wire, over all its attempts."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_node.cloud.uploads import Upload


@dataclass(frozen=True, slots=True)
class PromptCount:
    """Counts a prompt's tokens; 0 where nobody did."""

    tokens: int = 0
    image_tokens: int = 0
    cached_tokens: int = 0  # that the cloud node did not run again


@dataclass(frozen=True, slots=True)
class CloudTimes:
    """Holds the seconds that a cloud node spent on one answer, by its own clock, checked against this device's."""

    decode_s: float = 0.0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    tokens_s: float = 0.0
    prefix_stored: bool = False  # it keeps the prompt's prefix for another one
    prompt: PromptCount = field(default_factory=PromptCount)

    @property
    def total_s(self) -> float:
        """Returns the seconds from the request's arrival to the last token, the queue included."""
        return self.decode_s + self.queue_s + self.prefill_s + self.tokens_s


@dataclass(slots=True)
class Exchange:
    """Counts sealed bytes and times of one request. Times are seconds of `time.perf_counter`, except for `cloud`."""

    bytes_sent: int = 0
    bytes_received: int = 0
    upload: Upload = field(default_factory=Upload)  # of the newest attempt
    heard_s: float | None = None  # when the cloud node last gave a sign of life
    longest_silence_s: float = 0.0  # of the node, when it had all that it needed to go on
    cloud: CloudTimes = field(default_factory=CloudTimes)

    def begin_attempt(self) -> None:
        """Forgets the last attempt's upload before the request is sent once more. Bytes add up."""
        self.upload = Upload()
