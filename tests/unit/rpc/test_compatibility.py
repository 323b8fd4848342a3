"""Device and cloud agree by hash, variants included, and a session's keys stand for what was agreed."""

from __future__ import annotations

import pytest

from splitvlm.domain import FULL
from splitvlm.errors import HandshakeRefused, UsageError
from splitvlm.rpc.compatibility import agreed_variants, check_compatibility, compatibility, session_context
from splitvlm.wire.v1.data_pb2 import Compatibility


def side(**variants: str) -> Compatibility:
    hashes = {"weights_hash": "aa", "processor_hash": "bb", "codec_hash": "cc"}
    return compatibility(model="scenes", dtype="float32", variants=variants, **hashes)


def test_variants_of_one_name_are_one_by_hash() -> None:
    with pytest.raises(HandshakeRefused, match=r"differ in variant int8 \(device 1234, cloud 5678\)\."):
        check_compatibility(side(int8="1234", bf16="1"), side(int8="5678", bf16="1"))


def test_a_variant_that_one_side_lacks_is_not_agreed_on() -> None:
    device, cloud = side(int8="1234", mine="1"), side(int8="1234", other="2")
    check_compatibility(device, cloud)
    assert agreed_variants(device, cloud) == {FULL, "int8"}
    assert agreed_variants(side(), cloud) == {FULL}


def test_keys_stand_for_the_variants_that_the_device_said() -> None:
    assert session_context(side(int8="1")) != session_context(side(int8="2"))
    assert session_context(side(int8="1", bf16="2")) == session_context(side(bf16="2", int8="1"))


def test_a_device_names_few_variants() -> None:
    with pytest.raises(UsageError, match="17 variants"):
        check_compatibility(side(**{f"v{number}": "1" for number in range(17)}), side())
