"""Lists the back ends, says which of them can run here and why the others cannot, and opens an exported stage by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from splitvlm.backends import onnxruntime, openvino
from splitvlm.backends.stage import PRECISIONS, Precision, TileStage
from splitvlm.backends.torch import COMPILED, EAGER
from splitvlm.errors import UsageError

_FORMATS = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",)}  # by the file's ending


@dataclass(frozen=True, slots=True)
class Availability:
    """Tells whether a back end can run here: in which precisions, and else why not."""

    backend: str
    precisions: tuple[Precision, ...]
    reason: str = ""  # why there are none

    @property
    def here(self) -> bool:
        return bool(self.precisions)


def availabilities() -> tuple[Availability, ...]:
    """Returns every back end that splitvlm knows, those that cannot run here with the reason. Loads all their libraries."""
    return tuple(entry for library in _LIBRARIES for entry in _entries(library))


def check_backend(backend: str, precision: Precision) -> None:
    """Raises UsageError for a back end that is unknown, cannot run here, or does not compute in that precision here."""
    entries = {entry.backend: entry for entry in _entries(_library_of(backend))}
    if backend not in entries:
        known = ", ".join(entry.backend for entry in availabilities())
        raise UsageError(f"There is no back end '{backend}'.", advice=f"Known ones: {known}.")
    entry = entries[backend]
    if not entry.here:
        others = ", ".join(entry.backend for entry in availabilities() if entry.here)
        raise UsageError(f"The back end {backend} is not here: {entry.reason}.", advice=f"Here are {others or 'none'}.")
    if precision not in entry.precisions:
        raise UsageError(
            f"The back end {backend} does not compute in {precision} on this machine.",
            advice=f"Use {' or '.join(entry.precisions)}.",
        )


def open_stage(path: Path, backend: str, *, threads: int | None = None, precision: Precision = "float32") -> TileStage:
    """Opens an exported stage. Raises UsageError where the back end, the precision or the file cannot be used here."""
    check_backend(backend, precision)
    library = _library_of(backend)
    if library not in _FORMATS.get(path.suffix, ()):
        taken = ", ".join(suffix for suffix, libraries in _FORMATS.items() if library in libraries)
        raise UsageError(
            f"The back end {backend} does not open {path.name}.",
            advice=f"It opens {taken}." if taken else "It runs modules that are loaded, and no files.",
        )
    if not path.is_file():
        raise UsageError(f"{path}: no such file.", advice="Make the variant anew.")
    if library == "onnxruntime":
        return onnxruntime.OnnxRuntimeStage(path, backend, threads, precision)
    return openvino.OpenVinoStage(path, backend, threads, precision)


def candidates(path: Path) -> tuple[Availability, ...]:
    """Returns the back ends that open files of that ending, whether they are here or not."""
    return tuple(entry for library in _FORMATS.get(path.suffix, ()) for entry in _entries(library))


def _library_of(backend: str) -> str:
    return "torch" if backend in (EAGER, COMPILED) else backend.partition(":")[0]


@cache
def _entries(library: str) -> tuple[Availability, ...]:
    """Returns one library's back ends; others are not loaded."""
    return tuple(_LIBRARIES[library]()) if library in _LIBRARIES else ()


def _torch() -> list[Availability]:
    if find_spec("torch") is None:
        return [_without_package(backend, "torch", "model") for backend in (EAGER, COMPILED)]
    import torch

    precisions = PRECISIONS if torch.ops.mkldnn._is_mkldnn_bf16_supported() else PRECISIONS[:1]
    return [Availability(backend, precisions) for backend in (EAGER, COMPILED)]


def _onnxruntime() -> list[Availability]:
    names = [f"onnxruntime:{name}" if name else "onnxruntime" for name in onnxruntime.PROVIDERS]
    if find_spec("onnxruntime") is None:
        return [_without_package(name, "onnxruntime", "onnxruntime") for name in names]
    here = onnxruntime.available_providers()
    return [
        Availability(name, ("float32",)) if provider in here else
        Availability(name, (), f"this build of ONNX Runtime has no {provider}")
        for name, provider in zip(names, onnxruntime.PROVIDERS.values(), strict=True)
    ]  # fmt: skip


def _openvino() -> list[Availability]:
    names = [f"openvino:{name}" if name else "openvino" for name in openvino.DEVICES]
    if find_spec("openvino") is None:
        return [_without_package(name, "openvino", "openvino") for name in names]
    here = openvino.available_devices()
    entries = []
    for name, device in zip(names, openvino.DEVICES.values(), strict=True):
        if any(name_here.partition(".")[0] == device for name_here in here):
            entries.append(Availability(name, PRECISIONS if openvino.computes_bf16(device) else PRECISIONS[:1]))
        else:
            entries.append(Availability(name, (), f"OpenVINO finds no {device} on this machine"))
    return entries


def _without_package(backend: str, package: str, extra: str) -> Availability:
    return Availability(backend, (), f"{package} is not installed (pip install 'splitvlm[{extra}]')")


_LIBRARIES: dict[str, Callable[[], list[Availability]]] = {
    "torch": _torch,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
