"""Sealed frames: what is sent comes out in order, and nothing else ever does."""

from __future__ import annotations

import hmac
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitvlm.crypto import sealing
from splitvlm.crypto.sealing import OVERHEAD_BYTES, Opener, Sealer
from splitvlm.crypto.session_keys import DirectionKey, SessionKeys, derive, following
from splitvlm.errors import ProtocolError

SENTENCE = "A frame did not open under its session's key."


def session(seed: int = 1, context: bytes = b"c" * 32) -> SessionKeys:
    return derive(bytes([seed] * 32), b"t" * 32, context)


def refuses(opener: Opener, frame: bytes) -> None:
    """It refuses the frame with the one sentence, and is dead from then on."""
    for _ in range(2):
        with pytest.raises(ProtocolError) as caught:
            opener.open(frame)
        assert str(caught.value) == SENTENCE


@given(st.lists(st.binary(max_size=200), max_size=20))
@settings(max_examples=60, deadline=None)
def test_both_directions_round_trip_in_order(messages: list[bytes]) -> None:
    keys = session()
    pairs = (Sealer.of_device(keys), Opener.of_cloud(keys)), (Sealer.of_cloud(keys), Opener.of_device(keys))
    for sealer, opener in pairs:
        frames = [sealer.seal(message) for message in messages]
        assert [len(frame) - len(message) for frame, message in zip(frames, messages, strict=True)] == [
            OVERHEAD_BYTES
        ] * len(messages)
        assert [opener.open(frame) for frame in frames] == messages


def test_known_answer() -> None:
    """Pins key schedule, nonce, associated data and cipher: a change of any needs a new version byte."""
    sealer = Sealer.of_device(session())
    assert sealer.seal(b"splitvlm").hex() == KNOWN_FIRST
    assert sealer.seal(b"splitvlm").hex() == KNOWN_SECOND


def test_equal_messages_look_different() -> None:
    keys = session()
    device, cloud = Sealer.of_device(keys), Sealer.of_cloud(keys)
    assert len({sealer.seal(b"same") for sealer in (device, device, cloud, cloud)}) == 4


@given(st.binary(max_size=64), st.data())
@settings(max_examples=150, deadline=None)
def test_a_changed_frame_is_refused(message: bytes, data: st.DataObject) -> None:
    keys = session()
    frame = bytearray(Sealer.of_device(keys).seal(message))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    refuses(Opener.of_cloud(keys), bytes(frame))


@pytest.mark.parametrize("length", [0, 1, OVERHEAD_BYTES - 1, OVERHEAD_BYTES, -1])
def test_a_cut_frame_is_refused(length: int) -> None:
    keys = session()
    refuses(Opener.of_cloud(keys), Sealer.of_device(keys).seal(b"a message of some length")[:length])


def test_a_lengthened_frame_is_refused() -> None:
    keys = session()
    refuses(Opener.of_cloud(keys), Sealer.of_device(keys).seal(b"a message") + b"\0")


def test_a_replayed_frame_is_refused() -> None:
    keys = session()
    opener, frame = Opener.of_cloud(keys), Sealer.of_device(keys).seal(b"stop")
    opener.open(frame)
    refuses(opener, frame)


def test_a_reordered_or_dropped_frame_is_refused() -> None:
    keys = session()
    sealer = Sealer.of_device(keys)
    sealer.seal(b"first")
    refuses(Opener.of_cloud(keys), sealer.seal(b"second"))


def test_a_reflected_frame_is_refused() -> None:
    keys = session()
    refuses(Opener.of_device(keys), Sealer.of_device(keys).seal(b"mine"))
    refuses(Opener.of_cloud(keys), Sealer.of_cloud(keys).seal(b"yours"))


def test_a_frame_of_another_session_is_refused() -> None:
    refuses(Opener.of_cloud(session(2)), Sealer.of_device(session(1)).seal(b"elsewhere"))


def test_the_context_and_session_id_are_authenticated() -> None:
    """Equal keys, but another agreement (or session id) in the associated data."""
    keys = session()
    frame = Sealer.of_device(keys).seal(b"message")
    for other in (
        SessionKeys(keys.of_device, keys.of_cloud, keys.session_id, b"d" * 32),
        SessionKeys(keys.of_device, keys.of_cloud, bytes(16), keys.context_hash),
    ):
        refuses(Opener.of_cloud(other), frame)


def test_after_a_failure_the_right_frame_is_refused_too() -> None:
    keys = session()
    opener, frame = Opener.of_cloud(keys), Sealer.of_device(keys).seal(b"right")
    with pytest.raises(ProtocolError):
        opener.open(b"x" * 40)
    refuses(opener, frame)


@pytest.mark.parametrize(("limit", "value"), [("REKEY_FRAMES", 3), ("REKEY_BYTES", 100)])
def test_a_key_is_used_for_so_long_and_both_sides_go_on_with_the_next(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(sealing, limit, value)
    keys = session()
    sealer, opener = Sealer.of_device(keys), Opener.of_cloud(keys)
    messages = [bytes([n]) * (7 * n % 40) for n in range(40)]
    used = set()
    for message in messages:
        assert opener.open(sealer.seal(message)) == message
        used.add(sealer._direction._key.key)
    assert len(used) >= len(messages) / 3 / 2
    late = Sealer.of_device(replace(keys, of_device=sealer._direction._key))
    early = Sealer.of_device(keys).seal(b"early")
    with pytest.raises(ProtocolError):
        Opener.of_cloud(replace(keys, of_device=late._direction._key)).open(early)


def test_known_answer_of_the_next_key() -> None:
    """HKDF-Expand of RFC 5869 2.3, written out with the standard library alone."""
    key = DirectionKey(bytes([1] * 32), bytes([2] * 12))
    first = hmac.digest(key.key, b"splitvlm next key 1" + b"\1", "sha256")
    second = hmac.digest(key.key, first + b"splitvlm next key 1" + b"\2", "sha256")
    assert following(key) == DirectionKey(first, second[:12])


def test_the_limits_are_far_below_those_of_the_cipher() -> None:
    assert sealing.REKEY_FRAMES <= 2**28
    assert sealing.REKEY_BYTES < 2**36


def test_no_key_is_in_a_repr() -> None:
    keys = session()
    shown = repr(keys) + repr(Sealer.of_device(keys)) + repr(Opener.of_cloud(keys)) + repr(vars(Sealer.of_device(keys)))
    for secret in (keys.of_device.key, keys.of_device.iv):
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown


KNOWN_FIRST = "5f9203d49f5376c513169b27504970de81c43dd8940aa958"
KNOWN_SECOND = "ade524efeeb6a44d3009f402b065f8ab917c6c17f9c0f451"
