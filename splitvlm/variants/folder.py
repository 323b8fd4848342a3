"""Reads and writes the folders of variants.

A file that is not as the manifest says, and the variant of another model, are refused by name.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from splitvlm.bundle.accuracy import read_accuracy
from splitvlm.bundle.figures import ACCURACY_FILE, LEAK_FILE, Combine, Row, combined
from splitvlm.bundle.folder import Bundle
from splitvlm.bundle.leaks import read_leaks
from splitvlm.codec.calibration_file import FILE as CALIBRATION_FILE
from splitvlm.codec.codec import Codec
from splitvlm.domain import Cut, Plan
from splitvlm.errors import UsageError
from splitvlm.exported.device_file import DEVICE_FILES
from splitvlm.files.hashes import file_hash
from splitvlm.model.spec import ModelSpec
from splitvlm.planning.kinds import AccuracyDrop
from splitvlm.variants.manifest import MANIFEST, Manifest, Parent, StageFile, WeightFiles, read_manifest, write_manifest

MEASURED_FILES = (ACCURACY_FILE, LEAK_FILE)
"""Files that the manifest does not name: they are written after it."""
_SHOWN_DIGITS = 12  # of a hash
_F = TypeVar("_F")


@dataclass(frozen=True)
class Variant:
    """Holds an opened variant: its files are as its manifest says, and it is of the model that it was opened for."""

    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """Returns the name by which plans call it, as in tokens/klt3@int8."""
        return self.manifest.name

    @cached_property
    def hash(self) -> str:
        """Returns the hex SHA-256 that stands for all of it."""
        return self.manifest.hash

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """Returns the cuts that it serves, from shallow to deep."""
        return tuple(sorted(map(Cut.parse, self.manifest.cuts), key=lambda cut: cut.depth))

    @property
    def weight_bytes(self) -> int:
        """Returns the bytes of its weights, which are held as they are stored."""
        beside = {CALIBRATION_FILE, *DEVICE_FILES, self.manifest.weights.config if self.manifest.weights else ""}
        return sum((self.folder / name).stat().st_size for name in self.manifest.files if name not in beside)

    @property
    def has_own_codec(self) -> bool:
        """Tells whether it was made with codec levels of its own."""
        return CALIBRATION_FILE in self.manifest.files

    def codec(self, bundle: Bundle) -> Codec:
        """Returns its own codec, or the one of its parent's bundle. Raises UsageError."""
        return self._own_codec if self.has_own_codec else bundle.codec

    @cached_property
    def _own_codec(self) -> Codec:
        return Codec.from_file(self.folder / CALIBRATION_FILE)

    def calibration_hash(self, bundle: Bundle) -> str:
        """Returns the hash of the calibration that its plans are coded with; empty without one."""
        return self.manifest.files.get(CALIBRATION_FILE) or bundle.calibration_hash

    def accuracy(self, bundle: Bundle) -> dict[Plan, AccuracyDrop]:
        """Returns the drops of its plans that were measured beside today's calibration. Raises UsageError."""
        return self._own(read_accuracy(self._measured(ACCURACY_FILE), self.calibration_hash(bundle)))

    def leaks(self, bundle: Bundle) -> dict[Plan, float]:
        """Returns the leaks of its plans that were measured beside today's calibration. Raises UsageError."""
        return self._own(read_leaks(self._measured(LEAK_FILE), self.calibration_hash(bundle)))

    def add(self, name: str, bundle: Bundle, rows: Mapping[str, Row], combine: Combine) -> Path:
        """Puts measured rows, by plan, into a file of figures of this variant; returns its path. Raises UsageError."""
        path = self.folder / name
        try:
            path.write_text(combined(self._measured(name), self.calibration_hash(bundle), rows, combine), "utf-8")
        except OSError as error:
            raise UsageError(f"Cannot write {path}: {error.strerror}.", advice="Check who may write there.") from error
        return path

    def _measured(self, name: str) -> Path | None:
        return self.folder / name if (self.folder / name).is_file() else None

    def _own(self, figures: dict[Plan, _F]) -> dict[Plan, _F]:
        """Returns the figures, which are all of this variant's plans. Raises UsageError."""
        if strange := [plan for plan in figures if plan.variant != self.name]:
            raise UsageError(
                f"{self.folder} holds figures of {strange[0]}, which is no plan of the variant {self.name}.",
                advice="Measure it again: `splitvlm variant measure` writes them.",
            )
        return figures


@dataclass(frozen=True)
class Made:
    """Says what was made in a variant's folder: either an exported stage or weights."""

    cuts: tuple[Cut, ...]
    parameters: int
    stage: StageFile | None = None
    weights: WeightFiles | None = None
    how: Mapping[str, object] = field(default_factory=dict)  # command, seed, data, samples, libraries


def read_variant(folder: Path, spec: ModelSpec, *, with_weights: bool = True) -> Variant:
    """Returns the variant in a folder, for the model of `spec`. Raises UsageError.

    Without `with_weights` only its manifest and its codec are read: a cloud node needs no more, nor need the rest be there.
    """
    manifest = read_manifest(folder)
    _check_parent(folder, manifest, spec)
    wanted = manifest.files if with_weights else manifest.files.keys() & {CALIBRATION_FILE}
    for name in wanted:
        _check_file(folder, manifest, name)
    return Variant(folder, manifest)


def read_variants(folders: Sequence[Path], spec: ModelSpec, *, with_weights: bool = True) -> tuple[Variant, ...]:
    """Returns the variants in some folders, whose names all differ. Raises UsageError."""
    variants: dict[str, Variant] = {}
    for folder in folders:
        variant = read_variant(folder, spec, with_weights=with_weights)
        if other := variants.get(variant.name):
            raise UsageError(
                f"{other.folder} and {folder} are both named {variant.name}.",
                advice="Name one of them, or make one again with another --name.",
            )
        variants[variant.name] = variant
    return tuple(variants.values())


def memory_of(variant: Variant | None, spec: ModelSpec, cut: Cut, dtype: str = "float32") -> int:
    """Returns the memory that a cut takes on the device in the form of a variant; None is the model's own form."""
    return spec.device_memory_bytes(cut, dtype, tower_bytes=variant.weight_bytes if variant else None)


def write_variant(folder: Path, name: str, kind: str, spec: ModelSpec, made: Made) -> Manifest:
    """Writes the manifest of a folder whose files are there, with their hashes in it; returns it. Raises OSError."""
    names = sorted(path.name for path in folder.iterdir() if path.name not in (MANIFEST, *MEASURED_FILES))
    manifest = Manifest(
        name=name,
        kind=kind,
        parent=Parent(model=spec.name, weights_hash=spec.weights_hash, processor_hash=spec.processor_hash),
        cuts=[str(cut) for cut in made.cuts],
        stage=made.stage,
        weights=made.weights,
        parameters=made.parameters,
        made=dict(made.how),
        files={file: file_hash(folder / file) for file in names},
    )
    write_manifest(folder, manifest)
    return manifest


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Gives a folder beside `out`, which takes its place when all is written, a variant that was there included.

    Raises UsageError where `out` holds anything else, or cannot be written.
    """
    if out.exists() and not (out.is_dir() and ((out / MANIFEST).is_file() or not any(out.iterdir()))):
        raise UsageError(f"{out} is no variant, and is not written over.", advice="Name another folder: --out.")
    fresh = out.with_name(f".{os.getpid()}-{out.name}")
    try:
        fresh.mkdir(parents=True)
        yield fresh
        if out.exists():
            shutil.rmtree(out)
        fresh.rename(out)
    except OSError as error:
        raise UsageError(f"Cannot write the variant {out}: {error.strerror}.", advice="Name another --out.") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _check_parent(folder: Path, manifest: Manifest, spec: ModelSpec) -> None:
    parent = manifest.parent
    for what, theirs, ours in (
        ("weights", parent.weights_hash, spec.weights_hash),
        ("processor", parent.processor_hash, spec.processor_hash),
    ):
        if theirs != ours:
            raise UsageError(
                f"The variant {manifest.name} in {folder} was made from another model: from {parent.model} "
                f"({what} {_short(theirs)}), not from {spec.name} ({_short(ours)}).",
                advice="Make it again from this model: `splitvlm variant make`.",
            )
    for text in manifest.cuts:
        spec.check(Cut.parse(text))


def _check_file(folder: Path, manifest: Manifest, name: str) -> None:
    path = folder / name
    try:
        digest = file_hash(path)
    except OSError as error:
        raise UsageError(
            f"The variant {manifest.name} lacks {path}: {error.strerror}.", advice="Copy its folder whole."
        ) from error
    if digest != manifest.files[name]:
        raise UsageError(
            f"The variant {manifest.name} is not as it was made: {path} was changed "
            f"({_short(digest)}, not {_short(manifest.files[name])}).",
            advice="Copy its folder again, or make it again: `splitvlm variant make`.",
        )


def _short(digest: str) -> str:
    return digest[:_SHOWN_DIGITS]
