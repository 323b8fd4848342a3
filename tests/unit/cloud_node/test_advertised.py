"""What a cloud node tells devices to dial: one host and a port, or an error before it starts."""

from __future__ import annotations

import pytest

from cloud_node.control import check_advertised
from cloud_node.settings import CloudSettings
from splitvlm.errors import ConfigError

WILDCARDS = ["0.0.0.0", "[::]", "[::0]", "[0:0:0:0:0:0:0:0]", "[::ffff:0.0.0.0]"]


def settings(**changes: str) -> CloudSettings:
    return CloudSettings.model_validate({"orchestrator": "10.0.0.1:7441", **changes})


@pytest.mark.parametrize("host", WILDCARDS)
def test_every_address_of_a_machine_is_none_to_dial(host: str) -> None:
    address = f"{host}:7442"
    with pytest.raises(ConfigError, match=r"listen is .*advertise"):
        check_advertised(settings(listen=address))
    with pytest.raises(ConfigError, match="advertise: "):
        check_advertised(settings(listen=address, advertise=address))
    check_advertised(settings(listen=address, advertise="10.0.0.7:7442"))
    check_advertised(CloudSettings(listen=address))  # devices name it themselves


@pytest.mark.parametrize("address", ["10.0.0.7:0", "224.0.0.1:7442", "[ff02::1]:7442", "bad..name:7442", "-x:7442"])
def test_what_cannot_be_dialled_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="advertise: "):
        check_advertised(settings(advertise=address))


@pytest.mark.parametrize("address", ["10.0.0.7:7442", "[2001:db8::7]:7442", "cloud-1.example:443", "localhost:7442"])
def test_what_can_be_dialled_is_taken(address: str) -> None:
    check_advertised(settings(advertise=address))


def test_loopback_told_to_other_machines_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    check_advertised(settings(listen="127.0.0.1:7442"))
    assert "cannot dial 127.0.0.1:7442" in caplog.text
    caplog.clear()
    check_advertised(settings(orchestrator="127.0.0.1:7441"))
    assert not caplog.records
