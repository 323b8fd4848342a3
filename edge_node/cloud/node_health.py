"""Tells whether a cloud node answers and has room, by what its last calls said."""

from __future__ import annotations

import time

from splitvlm.errors import CapacityError, SplitvlmError

AWAY = ("peer-unavailable", "deadline")  # codes of errors after which nobody is there


class NodeHealth:
    """Follows the probes of one cloud node and the requests to it."""

    def __init__(self) -> None:
        self.reachable = True
        self.full_until_s = 0.0  # of time.monotonic

    @property
    def has_room(self) -> bool:
        """Tells whether the node, when it last refused a request, said that it would have room by now."""
        return time.monotonic() >= self.full_until_s

    def on_answer(self) -> None:
        """Notes that the node answered a request or a probe."""
        self.reachable = True

    def on_probe_error(self, error: SplitvlmError) -> None:
        """Notes that a probe failed; any other error than silence is an answer, too."""
        self.reachable = error.code not in AWAY

    def on_request_error(self, error: SplitvlmError) -> None:
        """Notes that a request failed, which does not bring back a node that was away."""
        if isinstance(error, CapacityError):
            self.full_until_s = time.monotonic() + error.retry_after_s
        self.reachable = self.reachable and error.code not in AWAY
