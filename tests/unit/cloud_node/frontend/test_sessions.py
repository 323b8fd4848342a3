"""How many sessions may be open, of all devices and of each."""

from __future__ import annotations

import contextlib

import pytest

from cloud_node.frontend.sessions import FULL_RETRY_S, OpenSessions
from cloud_node.settings import CloudLimits
from splitvlm.errors import CapacityError


def test_a_device_has_its_own_limit_and_all_have_one() -> None:
    sessions = OpenSessions(CloudLimits(max_sessions=3, max_sessions_per_device=2))
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(sessions.opened("edge-1"))
        with (
            pytest.raises(CapacityError, match="edge-1 has 2 sessions open") as refused,
            sessions.opened("edge-1"),
        ):
            pass
        assert refused.value.retry_after_s == FULL_RETRY_S
        stack.enter_context(sessions.opened("edge-2"))
        with pytest.raises(CapacityError, match="no free session"), sessions.opened("edge-3"):
            pass
        assert sessions.by_device == {"edge-1": 2, "edge-2": 1}
    assert not sessions.by_device, "nothing is kept of a device without a session"


def test_a_session_that_fails_is_closed_too() -> None:
    sessions = OpenSessions(CloudLimits(max_sessions=1))
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), sessions.opened("edge-1"):
            _ = 1 / 0
    assert not sessions.by_device


def test_other_limits_count_for_the_next_session() -> None:
    sessions = OpenSessions(CloudLimits(max_sessions=1))
    with sessions.opened("edge-1"):
        sessions.use(CloudLimits(max_sessions=2))
        with sessions.opened("edge-1"):
            assert sessions.by_device.total() == 2
