"""Wrong input at the command line: one clear sentence, the right exit code, no traceback, and quickly."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from splitvlm.crypto.authority import init_authority, issue
from splitvlm.crypto.identity import Role
from tests.forked import splitvlm
from tests.samples import PICTURE, tiny_model


def check(done: subprocess.CompletedProcess[str], exit_code: int, *words: str) -> None:
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    sentence = done.stderr.strip().splitlines()[-1]
    assert all(word in sentence for word in words), sentence


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    init_authority(tmp_path / "keys")
    for name, role in (("cloud-1", Role.CLOUD), ("edge-1", Role.EDGE), ("app", Role.APP)):
        issue(tmp_path / "keys", name, role)
    return tmp_path / "keys"


def config(folder: Path, text: str) -> str:
    file = folder / "node.yaml"
    file.write_text(text)
    return str(file)


def test_a_wrong_key_in_a_configuration(tmp_path: Path) -> None:
    file = config(tmp_path, "planing: {}\n")
    check(splitvlm("edge", "--config", file), 2, "planing is not a known key", "planning")
    check(splitvlm("config", "check", "edge", file), 2, "planing is not a known key")


def test_what_the_model_lacks_is_refused_by_config_check_and_by_the_node(tmp_path: Path, keys: Path) -> None:
    edge = f"planning: {{levels: [jpg90]}}\nsecurity: {{keys: {keys / 'edge-1'}}}\n"
    for arguments in (("config", "check", "edge"), ("edge", "--config")):
        check(splitvlm(*arguments, config(tmp_path, edge)), 2, "planning.levels", "jpg90", "jpeg90")
    file = config(tmp_path, "cuts: [vision:99]\n")
    check(splitvlm("config", "check", "cloud", file), 2, "cuts:", "vision:99")
    known = splitvlm("config", "check", "edge", config(tmp_path, "planning: {levels: [jpeg90]}\n"))
    assert (known.returncode, "for the model scenes" in known.stdout) == (0, True)
    unread = splitvlm("config", "check", "edge", config(tmp_path, "model: {name: ./none}\n"))
    assert (unread.returncode, "were not checked" in unread.stdout) == (0, True)
    check(splitvlm("config", "check", "orchestrator", config(tmp_path, "accuracy: {foo: 0.1}\n")), 2, "not a cut")


def test_a_cloud_node_that_devices_could_not_dial_does_not_start(tmp_path: Path, keys: Path) -> None:
    text = f"orchestrator: 127.0.0.1:1\nlisten: 0.0.0.0:7442\nsecurity: {{keys: {keys / 'cloud-1'}}}\n"
    for arguments in (("config", "check", "cloud"), ("cloud", "--config")):
        check(splitvlm(*arguments, config(tmp_path, text)), 2, "listen is 0.0.0.0:7442", "advertise")


def test_a_missing_configuration(tmp_path: Path) -> None:
    check(splitvlm("cloud", "--config", str(tmp_path / "none.yaml")), 2, "none.yaml", "No such file")


def test_no_keys(tmp_path: Path) -> None:
    check(splitvlm("orchestrator", "--config", config(tmp_path, "node: o\n")), 2, "security.keys", "splitvlm keys init")


def test_a_missing_certificate(tmp_path: Path) -> None:
    done = splitvlm("orchestrator", "--config", config(tmp_path, "security: {keys: nowhere}\n"))
    check(done, 3, "nowhere", "keys issue")


def test_a_port_in_use(tmp_path: Path, keys: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        issue(keys, "o", Role.ORCHESTRATOR)
        file = config(tmp_path, f"listen: 127.0.0.1:{port}\nsecurity: {{keys: keys/o}}\n")
        check(splitvlm("orchestrator", "--config", file), 4, str(port), "in use")


def test_an_unknown_model(tmp_path: Path, keys: Path) -> None:
    done = splitvlm("cloud", "--config", config(tmp_path, "model: {name: scense}\nsecurity: {keys: keys/cloud-1}\n"))
    check(done, 2, "scense", "shape:")


def test_a_cut_that_the_model_lacks(tmp_path: Path, keys: Path) -> None:
    model = tiny_model("scenes-like")
    text = f"model: {{name: {model}}}\nplanning: {{cuts: [lm:99]}}\nsecurity: {{keys: keys/edge-1}}\n"
    check(splitvlm("edge", "--config", config(tmp_path, text)), 2, "lm:99", "layers")
    check(splitvlm("verify", model, "--cuts", "vision:77"), 2, "vision:77", "layers")


def test_plaintext_beyond_loopback(tmp_path: Path) -> None:
    file = config(tmp_path, "listen: 0.0.0.0:0\nsecurity: {plaintext: true}\n")
    check(splitvlm("orchestrator", "--config", file), 2, "not loopback")


def test_no_edge_node(tmp_path: Path, keys: Path) -> None:
    PICTURE.save(tmp_path / "p.png")
    done = splitvlm("ask", "p.png", "Is there a lake?", "--edge", "127.0.0.1:9", cwd=tmp_path)
    check(done, 5, "edge node at 127.0.0.1:9", "could not be reached")


def test_asking_without_keys_or_picture(tmp_path: Path) -> None:
    check(splitvlm("ask", "p.png", "What?", cwd=tmp_path), 3, "keys/app")
    check(splitvlm("ask", "p.png", "What?", "--plaintext", cwd=tmp_path), 2, "p.png", "No such file")


def test_a_wrong_flag_verb_and_value(tmp_path: Path) -> None:
    check(splitvlm("ask", "--colour"), 2, "--colour", "--help")
    check(splitvlm("aks"), 2, "aks")
    check(splitvlm("demo", "--questions", "many"), 2, "--questions", "integer")
    check(splitvlm("link", "--trace", "constant:fast", "--upstream", "127.0.0.1:1"), 2, "fast", "rate")
    check(splitvlm("link", "--trace", "synthetic:fade", "--upstream", "nowhere"), 2, "nowhere", "host:port")
    check(splitvlm("leak", "scenes", "--cuts", "device"), 2, "sends nothing", "another cut")
    for level in ("nope", "webp50"):  # the latter is one of pictures
        check(splitvlm("leak", "scenes", "--cuts", "tokens", "--levels", level), 2, f"'{level}'", "klt3")
    check(splitvlm("keys", "revoke", "edge-9", "--keys", "nowhere"), 3, "nowhere", "keys init")
    check(splitvlm("keys", "issue", "x", "--role", "king", cwd=tmp_path), 2, "king", "edge")
    check(splitvlm("config", "schema", "phone"), 2, "phone")


def test_a_folder_that_is_no_bundle_is_refused_by_nodes_and_verbs(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a bundle")
    for kind in ("edge", "cloud"):
        file = config(tmp_path, f"model: {{bundle: {tmp_path}}}\n")
        check(splitvlm("config", "check", kind, file), 2, f"{tmp_path} is no bundle", "bundle.json", "copy one whole")
    check(splitvlm("calibrate", "scenes", "--bundle", str(tmp_path)), 2, f"{tmp_path} is no bundle")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["node.yaml", "notes.txt"]


def test_what_may_leave_a_device_is_printed_and_told_by_the_exit_code(tmp_path: Path) -> None:
    model, plaintext = f"model: {{name: {tiny_model('scenes-like')}}}\n", "security: {plaintext: true}\n"

    def asked(text: str) -> subprocess.CompletedProcess[str]:
        return splitvlm("privacy", "check", config(tmp_path, model + plaintext + text))

    done = asked("privacy: {mode: device_only, audit_log: audit.jsonl}\n")
    assert (done.returncode, "Nothing that is made from a picture leaves" in done.stdout) == (0, True), done.stderr
    done = asked("planning: {cuts: [tokens], levels: [int4]}\n")
    assert (done.returncode, "Nothing limits what may leave" in done.stdout) == (1, True), done.stderr
    assert "tokens/int4" in done.stdout
    assert "not measured" in done.stdout
    check(asked("planning: {cuts: [tokens]}\nprivacy: {mode: max_leak, max_leak: 0.5}\n"), 2, "was not measured")
    check(asked("planning: {cuts: [tokens]}\nprivacy: {mode: device_only}\n"), 2, "device_only", "cut device")
    check(asked("planning: {privacy_floor: tokens}\n"), 2, "privacy_floor", "mode: device_only")


def test_an_authority_is_never_overwritten(tmp_path: Path, keys: Path) -> None:
    check(splitvlm("keys", "init", cwd=tmp_path), 3, "authority")
    check(splitvlm("keys", "issue", "edge-1", "--role", "edge", cwd=tmp_path), 3, "edge-1")


def test_help_is_quick_and_loads_no_torch() -> None:
    code = "import sys, splitvlm.cli; print('torch' in sys.modules or 'grpc' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )
    assert "verify" in splitvlm("--help").stdout


def test_the_orchestrator_loads_no_torch() -> None:
    code = "import sys, orchestrator.node; print('torch' in sys.modules or 'numpy' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )
