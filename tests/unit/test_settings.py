"""Configuration files: what is taken, and the words for what is not."""

from pathlib import Path

import pytest

from cloud_node.settings import CloudSettings
from edge_node.settings import EdgeSettings
from orchestrator.settings import OrchestratorSettings
from orchestrator.simulator.scenario import Scenario
from splitvlm.errors import ConfigError, UsageError
from splitvlm.settings import Section, host_and_port, load, parse, schema

EXAMPLES = Path(__file__).parents[2] / "examples"
KINDS: dict[str, type[Section]] = {
    "cloud": CloudSettings,
    "edge": EdgeSettings,
    "orchestrator": OrchestratorSettings,
    "simulate": Scenario,
    "bench": Scenario,
}


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_example_is_valid(file: Path) -> None:
    load(file, KINDS[file.stem.split("-")[0]])


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "edge.yaml"
    file.write_text("security: {keys: keys/edge-1}\n")
    assert load(file, EdgeSettings).security.keys == tmp_path / "keys/edge-1"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"lisen": "x:1"}, "lisen is not a known key"),
        ({"planning": {"fixed_plan": "middle"}}, "planning.fixed_plan is 'middle', but"),
        ({"planning": {"cuts": ["tokens", "lm:0"]}}, "planning.cuts.1 is 'lm:0'"),
        ({"planning": {"privacy_floor": 1.5}}, "planning.privacy_floor"),
        ({"planning": {"privacy_floor": "vision"}}, "planning.privacy_floor"),
        ({"model": {"dtype": "int8"}}, "model.dtype is 'int8', but input should be 'float32' or 'bfloat16'"),
        ({"emulation": {"slowdown": 0.5}}, "emulation.slowdown is 0.5"),
        ({"listen": "no port"}, "listen is 'no port'"),
    ],
)
def test_an_error_names_the_key_and_what_it_got(raw: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        parse(raw, EdgeSettings, source="edge.yaml")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"a: [", "not valid YAML"), (b"- 1", "must hold keys"), (b"\xff\xfe\x00", "not a text file")],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        load(file, CloudSettings)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none.yaml", CloudSettings)


@pytest.mark.parametrize("kind", KINDS.values())
def test_the_schema_names_every_key(kind: type[Section]) -> None:
    assert all(f'"{key}"' in schema(kind) for key in kind.model_fields)


def test_addresses() -> None:
    assert host_and_port("[::1]:70") == ("::1", 70)
    with pytest.raises(UsageError, match="not an address"):
        host_and_port("localhost")
