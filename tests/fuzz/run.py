"""The long fuzzing run: coverage-guided (atheris), one process a target, within a limit of memory and of time an input.

    python -m tests.fuzz.run --inputs 1000000 [--targets boundary,picture] [--seed 1]

`inputs` is of all targets together; a session takes milliseconds, the decoders microseconds, so that they get different shares.
A finding is written into tests/fuzz/corpus/TARGET and ends the run with exit code 1. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
SHARES = {
    "boundary": 40,
    "picture": 14,
    "question_picture": 8,
    "handshake": 8,
    "arrival": 10,
    "upload": 8,
    "conversation": 2,
    "session": 2,
    "control": 14,
    "trace": 14,
}
RSS_MIB = 2048  # torch and transformers alone take 500
INPUT_S = 10
MOST_BYTES = 8192
_DONE = re.compile(r"Done (\d+) (?:runs )?in")


def fuzz(name: str, inputs: int, seed: int) -> tuple[bool, int, str]:
    """Whether nothing was found, inputs run, and what the fuzzer said at its end."""
    from tests.fuzz.targets import TARGETS

    with tempfile.TemporaryDirectory(prefix="splitvlm-fuzz-") as folder:
        for number, data in enumerate(TARGETS[name].seeds()):
            (Path(folder) / f"seed-{number}").write_bytes(data)
        for path in sorted((CORPUS / name).glob("*")):
            shutil.copy(path, folder)
        (CORPUS / name).mkdir(parents=True, exist_ok=True)
        limits = [f"-rss_limit_mb={RSS_MIB}", f"-timeout={INPUT_S}", f"-max_len={MOST_BYTES}", f"-runs={inputs}"]
        found = [f"-artifact_prefix={CORPUS / name}/", f"-seed={seed}", "-print_final_stats=1"]
        command = [sys.executable, "-m", "tests.fuzz.run", "--inside", name, folder, *limits, *found]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stderr + done.stdout
    ran = _DONE.search(said)
    return done.returncode == 0 and ran is not None, int(ran[1]) if ran else 0, said[-2000:]


def inside(name: str, arguments: list[str]) -> None:
    """The process that runs one target."""
    import atheris

    with atheris.instrument_imports(
        include=["splitvlm", "cloud_node"]
    ):  # all of torch would make it a hundred times slower
        from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    for data in target.seeds():  # models and keys are made before the clock of an input runs
        target.run(data)
    atheris.Setup([sys.argv[0], *arguments], target.run)
    atheris.Fuzz()


def main() -> None:
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--targets", default=",".join(SHARES))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        sys.exit(
            "The fuzzer atheris is not installed. Run `make fuzz`, which installs it, or `pip install -e '.[fuzz]'`."
        )
    names = options.targets.split(",")
    shares = sum(SHARES[name] for name in names)
    good, total, started_s = True, 0, time.monotonic()
    for name in names:
        began_s = time.monotonic()
        fine, ran, said = fuzz(name, max(1, options.inputs * SHARES[name] // shares), options.seed)
        good, total = good and fine, total + ran
        print(f"{name:18} {ran:9} inputs in {time.monotonic() - began_s:6.0f} s: {'no finding' if fine else 'FINDING'}")
        if not fine:
            print(said)
    peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    seconds = round(time.monotonic() - started_s)
    print(
        json.dumps(
            {"benchmark": "fuzz", "inputs": total, "findings": not good, "peak_mib": peak_mib, "seconds": seconds}
        )
    )
    sys.exit(not good)


if __name__ == "__main__":
    main()
