"""`splitvlm profile`: measures both sides of a model on this machine and writes them as one file for plans and simulations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from splitvlm.bundle import Bundle, open_bundle
from splitvlm.domain import DEVICE, FULL, IMAGE, TOKENS, Cut, Plan
from splitvlm.files.shown import shown_or_unknown
from splitvlm.local_model import LocalBoundary
from splitvlm.model.dtype_choice import chosen_dtype
from splitvlm.model.loading import load_cloud, middle_cuts
from splitvlm.model.prompt import Prompt
from splitvlm.model.threads import use_threads
from splitvlm.planning.costs import DeviceProfile, nearest_drops
from splitvlm.planning.kinds import AccuracyDrop
from splitvlm.planning.profiles import AccuracySource, Profiles
from splitvlm.profiling.cache import cached, discard, processor
from splitvlm.profiling.cached_profiles import device_profile_from_bytes, device_profile_to_bytes, facts_of
from splitvlm.profiling.measuring import profile_cloud, profile_device
from splitvlm.profiling.profile_file import write
from splitvlm.rpc.profiles import sizes_from_wire, sizes_to_wire
from splitvlm.scenes.samples import samples
from splitvlm.settings import ModelChoice
from splitvlm.variants.device_forms import DeviceForm, load_forms
from splitvlm.variants.folder import Variant, read_variants
from splitvlm.variants.stage_tower import stage_choice
from splitvlm.wire.v1 import profiles_pb2

SHOW_EVERY = 100  # pictures
LENDER = "scenes"  # lends its accuracy to models whose answers mean nothing


def profile(model: ModelChoice, pictures: int, out: Path | None, folders: Sequence[Path] = ()) -> Profiles:
    """Stages of both sides, codec times, payload sizes over pictures, and accuracy where it is known.

    The device's part is measured in the model's own form and in those of variants, whose folders are given. What was measured
    before an interruption is taken up again by the next run; after an end everything is measured anew.
    """
    say = Console(stderr=True)
    model = chosen_dtype(model)
    use_threads(model.threads)
    cuts = (*middle_cuts(model.name), DEVICE)
    bundle = open_bundle(model.name, model.bundle)
    variants = read_variants(folders, bundle.spec)
    served = {FULL: cuts} | {each.name: tuple(cut for cut in cuts if cut in each.cuts) for each in variants}
    forms = load_forms(model, served, bundle, variants)
    on_device, sizes, done = list[DeviceProfile](), dict[Plan, tuple[int, ...]](), list[dict[str, Any]]()
    for variant in (None, *variants):
        name = variant.name if variant else FULL
        work = _DeviceWork(forms[name], served[name], bundle, variant, model, pictures)
        say.print(f"Measuring the device's part of {model.name}, {name}, and sizes of {pictures} pictures ...")
        if variant and variant.manifest.stage:
            say.print(f"{name} runs by {stage_choice(variant, model.threads).reason}.")
        on_device.append(work.profile())
        sizes |= work.sizes(say)
        done.append(work.facts)
    say.print("Measuring the cloud's part ...")
    cloud = load_cloud(model.name, list(cuts[:-1]), device=model.device, dtype=model.dtype)
    on_cloud = profile_cloud(cloud, cuts[:-1], bundle.codec, model)
    drops, source = _drops(bundle, on_device, variants)
    result = Profiles(
        model=model.name,
        machine=f"{processor()}, {torch.get_num_threads()} thread(s), {model.device}, {model.dtype}",
        source=f"splitvlm profile, torch {torch.__version__.partition('+')[0]}, sizes of {pictures} drawn pictures",
        devices=tuple(replace(each, coding=_with_median_sizes(each, sizes)) for each in on_device),
        clouds=(replace(on_cloud, variants=frozenset(forms)),),
        accuracy=drops,
        accuracy_source=source,
        sizes=sizes,
    )
    _show(result, out)
    for facts in done:
        discard("measured-device", facts)
        discard("measured-sizes", facts)
    return result


class _DeviceWork:
    """Measures one form of the device's part, and keeps what was measured until all is."""

    def __init__(
        self,
        form: DeviceForm,
        cuts: tuple[Cut, ...],
        bundle: Bundle,
        variant: Variant | None,
        model: ModelChoice,
        pictures: int,
    ) -> None:
        self._form, self._cuts, self._bundle, self._variant, self._pictures = form, cuts, bundle, variant, pictures
        made = {"sizes": pictures} | ({"variant": variant.hash} if variant else {})
        self.facts = facts_of(form.part, cuts, form.codec, model) | made

    def profile(self) -> DeviceProfile:
        return cached(
            "measured-device",
            self.facts,
            lambda: profile_device(self._form.part, self._cuts, self._bundle, self._variant),
            device_profile_to_bytes,
            device_profile_from_bytes,
        )

    def sizes(self, say: Console) -> dict[Plan, tuple[int, ...]]:
        name = self._variant.name if self._variant else FULL
        cuts = [cut for cut in (IMAGE, TOKENS) if cut in self._cuts]
        return cached(
            "measured-sizes",
            self.facts,
            lambda: _sizes(self._form, cuts, name, self._pictures, say),
            _sizes_to_bytes,
            _sizes_from_bytes,
        )


def _show(result: Profiles, out: Path | None) -> None:
    _print(result)
    if out is not None:
        write(out, result)
        print(f"Wrote {out}.")


def _sizes(
    form: DeviceForm, cuts: Sequence[Cut], variant: str, pictures: int, say: Console
) -> dict[Plan, tuple[int, ...]]:
    """Returns payload bytes of the picture levels and of the visual tokens, rising: the plans that pay one round trip."""
    sizes: defaultdict[Plan, list[int]] = defaultdict(list)
    for number, (image, question) in enumerate(samples(pictures, form.part.spec.name, seed=1_000)):
        if number and number % SHOW_EVERY == 0:
            say.print(f"{number} of {pictures} pictures")
        for cut in cuts:
            boundary = LocalBoundary(*form, Prompt.about(image, question), cut)
            for level in form.codec.levels(cut):
                sizes[Plan(cut, level, variant)].append(len(boundary.encode(level)))
    return {plan: tuple(sorted(num_bytes)) for plan, num_bytes in sizes.items()}


def _sizes_to_bytes(sizes: Mapping[Plan, tuple[int, ...]]) -> bytes:
    return profiles_pb2.Profiles(sizes=sizes_to_wire(sizes)).SerializeToString()


def _sizes_from_bytes(data: bytes) -> dict[Plan, tuple[int, ...]]:
    return sizes_from_wire(profiles_pb2.Profiles.FromString(data).sizes)


def _with_median_sizes(
    profile: DeviceProfile, sizes: Mapping[Plan, tuple[int, ...]]
) -> dict[tuple[Cut, str], tuple[float, int]]:
    coding = dict(profile.coding)
    for plan, num_bytes in sizes.items():
        if plan.variant != profile.variant:
            continue
        seconds, _ = coding[plan.cut, plan.level]
        coding[plan.cut, plan.level] = seconds, int(median(num_bytes))
    return coding


def _drops(
    bundle: Bundle, profiles: Sequence[DeviceProfile], variants: Sequence[Variant]
) -> tuple[dict[Plan, AccuracyDrop], AccuracySource]:
    """Returns the drops of this model, else the embedded model's at the same level and kind of cut, named as borrowed."""
    measured, source = bundle.accuracy, "measured"
    if not measured and bundle.spec.random_weights:
        measured, source = open_bundle(LENDER).accuracy, "borrowed"
    for variant in variants:
        measured = measured | variant.accuracy(bundle)
    drops = nearest_drops([plan for profile in profiles for plan in profile.plans], measured)
    return drops, source if drops else "none"  # type: ignore[return-value]


def _print(profiles: Profiles) -> None:
    # Narrow: where standard output is a file, a line has 80 columns.
    table = Table(
        caption="milliseconds; drop in points of accuracy", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.caption_justify = "left"
    for name in ("plan", "device", "encode", "bytes", "decode", "cloud", "a token", "drop"):
        table.add_column(name, justify="left" if name == "plan" else "right", no_wrap=True)
    for row in _rows(profiles):
        table.add_row(*row)
    console = Console()
    console.print(f"{profiles.model} on {profiles.machine}; accuracy {profiles.accuracy_source}", soft_wrap=True)
    console.print(table)


def _rows(profiles: Profiles) -> Iterator[tuple[str, ...]]:
    for line in profiles.lines():
        times = (f"{1e3 * seconds:.1f}" for seconds in (line.device_s, line.encode_s))
        later = (f"{1e3 * seconds:.1f}" for seconds in (line.decode_s, line.cloud_s, line.token_s))
        drop = shown_or_unknown(line.accuracy_drop, 100, 2)
        yield str(line.plan), *times, f"{line.payload_bytes}", *later, drop
