"""What SIGHUP changes, and what it leaves."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cloud_node.settings import CHANGEABLE as CLOUD_CHANGEABLE
from cloud_node.settings import ROLLED_OUT, CloudSettings
from edge_node.settings import CHANGEABLE, EdgeSettings
from orchestrator.settings import CHANGEABLE as ORCHESTRATOR_CHANGEABLE
from orchestrator.settings import OrchestratorSettings
from splitvlm.errors import ConfigError
from splitvlm.node.reload import Reloader, merged
from splitvlm.settings import Section


def edge(**raw: object) -> EdgeSettings:
    return EdgeSettings.model_validate(raw)


def test_changeable_keys_change_and_others_are_named() -> None:
    old = edge(planning={"hedging": True, "cuts": ["tokens"]})
    new = edge(planning={"hedging": False, "cuts": ["image"]}, listen="127.0.0.1:1", logging={"level": "debug"})
    settings, kept = merged(old, new, CHANGEABLE)
    assert kept == ["listen", "planning.cuts"]
    assert (settings.planning.hedging, settings.planning.cuts) == (False, ["tokens"])
    assert (settings.listen, settings.logging.level) == (old.listen, "debug")


def test_what_did_not_change_changes_nothing() -> None:
    assert merged(edge(), edge(), CHANGEABLE) == (edge(), [])


@pytest.mark.parametrize(
    ("kind", "changeable"),
    [
        (EdgeSettings, CHANGEABLE),
        (CloudSettings, CLOUD_CHANGEABLE | ROLLED_OUT),
        (OrchestratorSettings, ORCHESTRATOR_CHANGEABLE),
    ],
)
def test_changeable_keys_exist(kind: type[Section], changeable: frozenset[str]) -> None:
    settings = kind()
    for key in changeable:
        value: object = settings
        for name in key.split("."):
            value = getattr(value, name)


def test_settings_that_cannot_be_used_leave_the_old_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_: EdgeSettings) -> None:
        raise ConfigError("No.")

    file = tmp_path / "edge.yaml"
    file.write_text("planning: {hedging: false}")
    reloader = Reloader(file, edge(), CHANGEABLE, refuse)
    reloader.reload()
    file.write_text("planning: {hedgin: false}")
    reloader.reload()
    assert reloader.settings == edge()
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert "hedgin is not a known key" in errors[1]
