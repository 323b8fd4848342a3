"""From a model's name to its spec, to one of its parts, or to the whole.

A name is a folder, a Hugging Face id, `scenes` (the embedded model) or `shape:<id>` (random weights in a known shape).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitvlm.domain import DEVICE, IMAGE, TOKENS, Cut, CutKind
from splitvlm.errors import UsageError
from splitvlm.model.families import family_of
from splitvlm.model.spec import TOWER_KINDS, ModelSpec, cloud_stages, device_stages
from splitvlm.model.threads import use_threads

if TYPE_CHECKING:
    import torch

    from splitvlm.model.parts import CloudPart, DevicePart
    from splitvlm.model.sources import Source
    from splitvlm.model.tower import TorchTower

Stages = frozenset[tuple[str, int]]


def read_spec(name: str) -> ModelSpec:
    """Returns what is known without loading a weight. Raises UsageError."""
    return _known(name)[1]


def model_folder(name: str) -> Path | None:
    """Returns where the model's files are; None for a `shape:`, which has none."""
    folder = getattr(_known(name)[0], "folder", None)
    return folder if isinstance(folder, Path) else None


def load_device(
    name: str,
    cuts: Sequence[Cut],
    *,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int | None = None,
    packed: bool = True,
    with_tower: bool = True,
) -> DevicePart:
    """Loads the lower part with the weights of the deepest of `cuts`, and no others. Raises UsageError.

    `packed` weights of linear layers are faster on CPUs and cannot be read (packed_linear.py). Without its tower it is for
    `DevicePart.with_tower`.
    """
    from splitvlm.model.packed_linear import pack_linears
    from splitvlm.model.parts import DevicePart

    use_threads(threads)
    source, spec = _known(name)
    _check(spec, cuts)
    deepest = max(cuts, key=lambda cut: cut.depth)
    served = tuple(cut for cut in spec.cuts() if cut.depth <= deepest.depth)
    stages = device_stages(spec, deepest)
    wanted = stages if with_tower else frozenset(stage for stage in stages if stage[0] not in TOWER_KINDS)
    model = _partial(source, name, wanted, _torch_device(device), _torch_dtype(dtype))
    if packed:
        pack_linears(model, tied=False)  # devices are short of memory
    family = family_of(source.config.model_type, name)
    return DevicePart(spec, family, model, source.processor(), served, _torch_device(device))


def load_own_tower(part: DevicePart, deepest: Cut, dtype: str = "float32", *, packed: bool = True) -> TorchTower:
    """Loads the model's own tower as far as `deepest` needs it, for a part that was loaded without one."""
    source, spec = _known(part.spec.name)
    stages = frozenset(stage for stage in device_stages(spec, deepest) if stage[0] in TOWER_KINDS)
    return _tower(source, part, stages, _torch_dtype(dtype), packed)


def load_tower(folder: Path, part: DevicePart, *, packed: bool = True) -> TorchTower:
    """Loads the tower and connector of another form from a folder, in the dtype that they are stored in. Raises UsageError."""
    from splitvlm.model.sources import FolderSource

    source = FolderSource(folder)
    depth = family_of(source.config.model_type, str(folder)).vision_depth(source.config)
    stages = frozenset([("patches", 0), *(("vision", i) for i in range(depth)), ("connector", 0)])
    return _tower(source, part, stages, source.stored_dtype(), packed)


def load_cloud(
    name: str,
    cuts: Sequence[Cut],
    *,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int | None = None,
    packed: bool = True,
) -> CloudPart:
    """Loads the upper part with the weights that the shallowest of `cuts` needs, and no others. Raises UsageError.

    `packed` weights of linear layers are faster on CPUs and cannot be read (packed_linear.py).
    """
    from splitvlm.model.packed_linear import pack_linears
    from splitvlm.model.parts import CloudPart

    use_threads(threads)
    source, spec = _known(name)
    _check(spec, cuts)
    shallowest = min(cuts, key=lambda cut: cut.depth)
    served = tuple(cut for cut in spec.cuts() if shallowest.depth <= cut.depth and cut != DEVICE)
    model = _partial(source, name, cloud_stages(spec, shallowest), _torch_device(device), _torch_dtype(dtype))
    if packed:
        pack_linears(model, tied=True)
    family = family_of(source.config.model_type, name)
    return CloudPart(spec, family, model, source.processor(), served, _torch_device(device))


def load_whole(
    name: str, *, device: str = "cpu", dtype: str = "float32", threads: int | None = None
) -> tuple[Any, Any]:
    """Loads transformers' own undivided model and the processor, for `generate`. Raises UsageError."""
    use_threads(threads)
    source, _ = _known(name)
    return source.whole(_torch_device(device), _torch_dtype(dtype)), source.processor()


def middle_cuts(name: str) -> tuple[Cut, ...]:
    """Returns `image`, the middle of the tower, `tokens`, the middle of the language model."""
    spec = read_spec(name)
    vision, lm = (max(1, layers // 2) for layers in (spec.vision_layers, spec.lm_layers))
    return IMAGE, Cut(CutKind.VISION, vision), TOKENS, Cut(CutKind.LM, lm)


@lru_cache(maxsize=16)
def _known(name: str) -> tuple[Source, ModelSpec]:
    from splitvlm.model.source_lookup import find_source
    from splitvlm.model.sources import spec_of

    source = find_source(name)
    return source, spec_of(source, name)


def _tower(source: Source, part: DevicePart, stages: Stages, dtype: torch.dtype, packed: bool) -> TorchTower:
    from splitvlm.model.packed_linear import pack_linears
    from splitvlm.model.tower import TorchTower

    model = _partial(source, part.spec.name, stages, part.device, dtype)
    if packed:
        pack_linears(model, tied=False)
    return TorchTower(part.family, model, part.clock)


def _partial(source: Source, name: str, stages: Stages, device: torch.device, dtype: torch.dtype) -> Any:
    from splitvlm.model.skeleton import build_skeleton, load_weights

    family = family_of(source.config.model_type, name)
    model = build_skeleton(source.config, dtype)
    model.generation_config = source.generation_config(model)
    wanted = {parameter for parameter, _ in model.named_parameters() if family.layout.stage_of(parameter) in stages}
    load_weights(model, source.tensors(model, wanted), device, dtype)
    return model


def _check(spec: ModelSpec, cuts: Sequence[Cut]) -> None:
    if not cuts:
        raise UsageError("No cut was named.", advice="Name at least one cut that this node serves.")
    for cut in cuts:
        spec.check(cut)


def _torch_device(device: str) -> torch.device:
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"There is no device '{device}' here.", advice="Use cpu, or install torch for your GPU.")
    return torch.device(device)


def _torch_dtype(dtype: str) -> torch.dtype:
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype not in known:
        raise UsageError(f"'{dtype}' is not a dtype that models are run in.", advice=f"Use {' or '.join(known)}.")
    return known[dtype]
