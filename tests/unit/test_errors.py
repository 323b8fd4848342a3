"""The error tree: codes are unique, statuses exist, and every error crosses the wire as itself."""

import grpc
import pytest

from splitvlm.errors import SplitvlmError, all_errors
from splitvlm.rpc.status import failure, from_rpc


def test_codes_are_unique_and_statuses_exist() -> None:
    codes = [kind.code for kind in all_errors()]
    assert len(codes) == len(set(codes))
    assert all(kind.grpc_status in grpc.StatusCode.__members__ and kind.exit_code > 0 for kind in all_errors())


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_comes_back_from_its_code(kind: type[SplitvlmError]) -> None:
    again = failure(kind.code, "Something.", "Do this.")
    assert type(again) is kind
    assert str(again) == "Something. Do this."


@pytest.mark.parametrize("status", [status for status in grpc.StatusCode if status is not grpc.StatusCode.OK])
def test_every_status_of_a_peer_means_something(status: grpc.StatusCode) -> None:
    error = from_rpc(grpc.aio.AioRpcError(status, grpc.aio.Metadata(), grpc.aio.Metadata(), details="x"), "cloud node")
    assert isinstance(error, SplitvlmError)
    assert "cloud node" in str(error)
