"""Configuration files: what is taken, and the words for what is not."""

from pathlib import Path

import pytest

from cloud_node.settings import CloudSettings
from edge_node.settings import EdgeSettings
from orchestrator.settings import OrchestratorSettings
from orchestrator.simulator.scenario import Scenario
from splitvlm.errors import ConfigError, UsageError
from splitvlm.host_port import host_and_port
from splitvlm.model.source_lookup import find_source
from splitvlm.settings import ModelChoice, Section, Security, load, parse, schema

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


def test_every_path_counts_from_the_file_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative model folder was looked for beside the shell, and then asked for at the Hugging Face Hub."""
    here, there = tmp_path / "here", tmp_path / "there"
    (there / "models" / "mine").mkdir(parents=True)
    here.mkdir()
    monkeypatch.chdir(here)
    (there / "edge.yaml").write_text(
        "model: {name: models/mine}\nsecurity: {keys: keys/edge-1}\nprivacy: {audit_log: audit.jsonl}\n"
    )
    edge = load(there / "edge.yaml", EdgeSettings)
    assert edge.privacy.audit_log == there / "audit.jsonl"
    assert (edge.model.name, edge.security.keys) == (str(there / "models" / "mine"), there / "keys" / "edge-1")
    (there / "s.yaml").write_text("profiles: p.json\nlink: {traces: [mine.csv, 'constant:1mbit']}\n")
    scenario = load(there / "s.yaml", Scenario)
    assert (scenario.profiles, scenario.link.traces) == (there / "p.json", [str(there / "mine.csv"), "constant:1mbit"])


@pytest.mark.parametrize("name", ["./m", "../m", "/m", "~/m", "$MODELS/m"])
def test_a_models_name_that_looks_like_a_path_is_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.setenv("MODELS", "/models")
    parsed = parse({"name": name}, ModelChoice, source="x", base=tmp_path)
    assert Path(parsed.name).is_absolute()
    with pytest.raises(UsageError, match="There is no model"):
        find_source(name)


@pytest.mark.parametrize("name", ["scenes", "shape:smolvlm-256m", "owner/model"])
def test_other_names_of_models_stay(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "scenes":
        (tmp_path / name).mkdir()  # the name of the embedded model counts before a folder's
    assert parse({"name": name}, ModelChoice, source="x", base=tmp_path).name == name


def test_a_folder_beside_the_shell_is_not_taken_for_one_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"there is no folder .*there/models/mine: relative paths count from"):
        parse({"name": "models/mine"}, ModelChoice, source="x", base=tmp_path / "there")


def test_an_adapters_folder_counts_from_the_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "there"
    (there / "adapters" / "orchard").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    parsed = parse({"name": "scenes+adapters/orchard"}, ModelChoice, source="x", base=there)
    assert parsed.name == f"scenes+{there / 'adapters' / 'orchard'}"
    with pytest.raises(UsageError, match="is no adapter: there is no adapter_config"):
        find_source(parsed.name)


def test_home_and_variables_are_filled_in_by_one_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.setenv("SITE", "north")
    keys = {
        text: parse({"keys": text}, Security, source="x", base=tmp_path).keys for text in ("~/k", "k/${SITE}", "$$k")
    }
    assert list(keys.values()) == [Path("/home/x/k"), tmp_path / "k" / "north", tmp_path / "$k"]
    for text, words in (
        ("$NOWHERE/k", "NOWHERE, which is not set"),
        ("a$", "begins no variable"),
        ("~nobody-x/k", "home"),
    ):
        with pytest.raises(ConfigError, match=words):
            parse({"keys": text}, Security, source="x")


@pytest.mark.parametrize("key", ["listen", "orchestrator", "cloud", "standby"])
def test_ports_end_at_65535(key: str) -> None:
    """`listen: 127.0.0.1:99999` was served at 34463."""
    address = "127.0.0.1:99999"
    with pytest.raises(ConfigError, match=f"{key}.*ports end at 65535"):
        parse({key: [address] if key == "standby" else address}, EdgeSettings, source="x")
    with pytest.raises(UsageError, match="ports end at 65535"):
        host_and_port(address)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"lisen": "x:1"}, "lisen is not a known key"),
        ({"planning": {"fixed_plan": "middle"}}, "planning.fixed_plan is 'middle', but"),
        ({"planning": {"cuts": ["tokens", "lm:0"]}}, "planning.cuts.1 is 'lm:0'"),
        ({"planning": {"privacy_floor": "tokens"}}, "planning.privacy_floor is not a known key any more: .* `privacy`"),
        ({"privacy": {"mode": "tokens"}}, "privacy.mode is 'tokens'"),
        ({"privacy": {"mode": "max_leak"}}, "privacy is .* belong together"),
        ({"privacy": {"mode": "device_only", "max_leak": 0.5}}, "privacy is .* belong together"),
        ({"privacy": {"mode": "max_leak", "max_leak": 1.0}}, "privacy.max_leak is 1.0"),
        ({"model": {"dtype": "int8"}}, "model.dtype is 'int8', but input should be 'auto', 'float32' or 'bfloat16'"),
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
