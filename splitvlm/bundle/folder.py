"""A bundle's folders: where they are, whose they are, and how a file in one is replaced.

A file is looked for in two folders, in this order:

    1. the folder that `--bundle DIR` or a configuration's `model.bundle` names, else the user's own
       (`splitvlm.files.folders`), named by the weights' hash;
    2. the folder that ships with this package, where it is of these weights. It is never written.

Each has a manifest, whose hash of weights must be the model's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property
from importlib import metadata, resources
from pathlib import Path

from splitvlm.bundle.accuracy import read_accuracy
from splitvlm.bundle.figures import ACCURACY_FILE, LEAK_FILE, Combine, Row, combined
from splitvlm.bundle.leaks import read_leaks
from splitvlm.codec.calibration_file import FILE as CALIBRATION_FILE
from splitvlm.codec.codec import Codec
from splitvlm.domain import CutKind, Plan
from splitvlm.errors import UsageError
from splitvlm.files.folders import BUNDLES_VARIABLE, bundles_folder
from splitvlm.files.text import read_json
from splitvlm.model.loading import model_folder, read_spec
from splitvlm.model.spec import ModelSpec
from splitvlm.planning.kinds import AccuracyDrop

MANIFEST = "bundle.json"
FORMAT = 1
LEARNED_FILES = (CALIBRATION_FILE, ACCURACY_FILE, LEAK_FILE)
_NAME_DIGITS = 32  # of the hash, in a folder's name
_LIBRARIES = ("splitvlm", "torch", "transformers")
_ADVICE = "`splitvlm calibrate`, `evaluate --plans` and `leak` make bundles; copy one whole, with its bundle.json."
_log = logging.getLogger("splitvlm.bundle")


class Bundle:
    """Holds what was learned about one model. Figures and the codec are read on first use and stay as they were then."""

    def __init__(self, spec: ModelSpec, folders: tuple[Path, ...], target: Path | None) -> None:
        """Takes folders that exist and are of these weights; `replacing` writes to `target`, None without a home folder."""
        self.spec = spec
        self.folders = folders
        self.target = target

    def file(self, name: str) -> Path | None:
        """Returns the file of that name, from the first folder that holds it."""
        return next((folder / name for folder in self.folders if (folder / name).is_file()), None)

    @cached_property
    def codec(self) -> Codec:
        """Returns the model's codec, with its calibration where there is one. Raises UsageError."""
        codec = Codec.from_file(self.file(CALIBRATION_FILE))
        _check_channels(codec, self.spec)
        return codec

    @property
    def calibration_hash(self) -> str:
        """Returns the hex SHA-256 of the calibration; empty without one."""
        path = self.file(CALIBRATION_FILE)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None else ""

    @cached_property
    def accuracy(self) -> dict[Plan, AccuracyDrop]:
        """Returns the drops of the plans that were measured. Raises UsageError."""
        return read_accuracy(self.file(ACCURACY_FILE), self.calibration_hash)

    @cached_property
    def leaks(self) -> dict[Plan, float]:
        """Returns the leaks of the plans that were measured. Raises UsageError."""
        return read_leaks(self.file(LEAK_FILE), self.calibration_hash)

    def prepare(self) -> Path:
        """Makes the folder that is written to, with its manifest, where there is none; returns it. Raises UsageError."""
        if self.target is None:
            raise UsageError(
                "There is no home folder to keep a bundle in.",
                advice=f"Name a folder: --bundle, or {BUNDLES_VARIABLE}.",
            )
        if not (self.target / MANIFEST).is_file():
            if self.target.is_dir() and any(self.target.iterdir()):
                raise _no_bundle(self.target)
            try:
                self.target.mkdir(parents=True, exist_ok=True)
                (self.target / MANIFEST).write_text(_manifest_of(self.spec), "utf-8")
            except OSError as error:
                raise _unwritable(self.target, error) from error
        if self.target not in self.folders:
            self.folders = (self.target, *self.folders)
        return self.target

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """Gives a path to write to, which takes the place of the file of that name when all is written. Raises UsageError."""
        path = self.prepare() / name
        fresh = path.with_name(f".{os.getpid()}-{name}")
        try:
            yield fresh
            fresh.replace(path)
        except OSError as error:
            raise _unwritable(path.parent, error) from error
        finally:
            fresh.unlink(missing_ok=True)

    def add(self, name: str, rows: Mapping[str, Row], combine: Combine) -> Path:
        """Puts measured rows, by plan, into a file of figures; returns its path. Raises UsageError."""
        text = combined(self.file(name), self.calibration_hash, rows, combine)
        with self.replacing(name) as path:
            path.write_text(text, "utf-8")
        return self.prepare() / name


def open_bundle(model: str, folder: Path | None = None, *, to_write: bool = False) -> Bundle:
    """Returns the bundle of a model's weights; `folder` takes the place of the user's own folder.

    With `to_write` the folder is made where there is none, so that work of hours does not end in an error. Raises UsageError.
    """
    spec = read_spec(model)
    beside = model_folder(model)
    if beside is not None:
        _warn_of_files_beside_weights(beside)
    root = bundles_folder()
    own = folder or (root / spec.weights_hash[:_NAME_DIGITS] if root is not None else None)
    if folder is not None and not to_write and not (folder / MANIFEST).is_file():
        raise _no_bundle(folder)
    folders = [own] if own is not None and (own / MANIFEST).is_file() else []
    for read in folders:
        _check_weights(read, spec)
    shipped = _shipped_folder()
    if _weights_hash_in(shipped) == spec.weights_hash:
        folders.append(shipped)
    bundle = Bundle(spec, tuple(folders), own)
    if to_write:
        bundle.prepare()
    return bundle


def _shipped_folder() -> Path:
    return Path(str(resources.files("splitvlm") / "scenes" / "bundle"))


def _check_weights(folder: Path, spec: ModelSpec) -> None:
    manifest = read_json(folder / MANIFEST, "manifest", advice=_ADVICE)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UsageError(f"{folder / MANIFEST} is no manifest of a bundle in format {FORMAT}.", advice=_ADVICE)
    if manifest.get("weights_hash") != spec.weights_hash:
        raise UsageError(
            f"{folder} is the bundle of other weights: of {manifest.get('model')} "
            f"({str(manifest.get('weights_hash'))[:12]}), not of {spec.name} ({spec.weights_hash[:12]}).",
            advice="Name the bundle of this model, or none.",
        )


def _weights_hash_in(folder: Path) -> object:
    file = folder / MANIFEST
    return read_json(file, "manifest").get("weights_hash") if file.is_file() else None


def _manifest_of(spec: ModelSpec) -> str:
    versions = {library: metadata.version(library) for library in _LIBRARIES}
    content = {"format": FORMAT, "model": spec.name, "weights_hash": spec.weights_hash, "versions": versions}
    return json.dumps(content, indent=2) + "\n"


def _check_channels(codec: Codec, spec: ModelSpec) -> None:
    for cut, channels in codec.channels.items():
        spec.check(cut)
        expected = spec.vision_hidden if cut.kind is CutKind.VISION else spec.lm_hidden
        if channels != expected:
            raise UsageError(
                f"{CALIBRATION_FILE} of {spec.name} is another model's: {channels} channels at {cut}, where it has {expected}.",
                advice="Make it again: `splitvlm calibrate MODEL`.",
            )


@cache
def _warn_of_files_beside_weights(folder: Path) -> None:
    """Says once in a process that files which counted before bundles were lie beside the weights."""
    old = [name for name in LEARNED_FILES if (folder / name).is_file()]
    if old:
        _log.warning(
            "%s in %s is not read: what was learned about a model lies in its bundle (`splitvlm bundle show MODEL`); "
            "learn it again, and remove it from there",
            " and ".join(old),
            folder,
        )


def _no_bundle(folder: Path) -> UsageError:
    return UsageError(f"{folder} is no bundle: there is no {MANIFEST} in it.", advice=_ADVICE)


def _unwritable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"Cannot write the bundle {folder}: {error.strerror}.",
        advice=f"Name another folder: --bundle, or {BUNDLES_VARIABLE}.",
    )
