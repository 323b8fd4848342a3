"""Tells people what may leave an edge node of a picture at most, before the node is trusted with any.

It asks the privacy door that a running node asks (edge_node/privacy.py), about every cut and level that the node would load.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from edge_node.privacy import PrivacyDoor
from edge_node.served import leaks_at, opened_variants, served_forms
from edge_node.settings import EdgeSettings
from splitvlm.bundle import open_bundle
from splitvlm.domain import DEVICE, Plan
from splitvlm.model.dtype_choice import with_dtype
from splitvlm.planning.costs import DeviceProfile
from splitvlm.profiling.cached_profiles import cached_device_profile
from splitvlm.variants.device_forms import load_forms


@dataclass(frozen=True, slots=True)
class SendingPlan:
    """Holds one plan that may send something. `leak` is None where it was not measured."""

    plan: Plan
    leak: float | None
    payload_bytes: int  # the median of drawn pictures
    token_bytes: int  # for each token of the answer besides: cuts `lm:k`


@dataclass(frozen=True, slots=True)
class PrivacyReport:
    """Holds what a configuration lets out."""

    mode: str | None
    max_leak: float | None
    audit_log: str
    rows: tuple[SendingPlan, ...]

    def to_json(self) -> dict[str, object]:
        """Returns what `--json` writes: plans with what they tell and weigh."""
        plans = {
            str(row.plan): {"leak": row.leak, "payload_bytes": row.payload_bytes, "token_bytes": row.token_bytes}
            for row in self.rows
        }
        return {"mode": self.mode, "max_leak": self.max_leak, "audit_log": self.audit_log, "plans": plans}


def may_leave(settings: EdgeSettings) -> PrivacyReport:
    """Returns the allowed plans that send something, the most telling first. Raises the errors of configuration and model."""
    settings = with_dtype(settings)
    model = settings.model
    bundle = open_bundle(model.name, model.bundle)
    variants = opened_variants(settings, bundle.spec)
    door = PrivacyDoor(settings.privacy, leaks_at(bundle, variants))
    served = served_forms(settings, bundle, variants, door)
    sending = {name: form for name, form in served.items() if any(cut != DEVICE for cut in form.cuts)}
    rows: list[SendingPlan] = []
    if sending:
        cuts = {name: form.cuts for name, form in sending.items()}
        forms = load_forms(model, cuts, bundle, variants, settings.planning.device_memory_bytes)
        for name, form in sending.items():
            known = cached_device_profile(forms[name].part, form.cuts, bundle, model, form.variant)
            rows += _rows(known.profile, door, settings)
    rows.sort(key=lambda row: (1.0 if row.leak is None else row.leak, row.payload_bytes), reverse=True)
    privacy = settings.privacy
    return PrivacyReport(privacy.mode, privacy.max_leak, str(privacy.audit_log or ""), tuple(rows))


def _rows(profile: DeviceProfile, door: PrivacyDoor, settings: EdgeSettings) -> list[SendingPlan]:
    """Returns the allowed plans of one form of the device's part."""
    levels = settings.planning.limits().levels
    rows = []
    for (cut, level), (_, size) in profile.coding.items():
        plan = Plan(cut, level, profile.variant)
        if door.allows(plan) and (levels is None or level in levels):
            rows.append(SendingPlan(plan, door.leak(plan), size, profile.token_bytes.get((cut, level), 0)))
    return rows


def show(report: PrivacyReport, console: Console) -> None:
    """Prints the verdict first, then the plans."""
    if report.mode is None:
        console.print("Nothing limits what may leave: there is no privacy.mode.", highlight=False)
    elif not report.rows:
        console.print("Nothing that is made from a picture leaves this device.", highlight=False)
    else:
        most = max(row.leak for row in report.rows if row.leak is not None)
        console.print(
            f"At most {most:.2f} of a picture leaves (privacy.max_leak is {report.max_leak:g}): by these plans, and no other. "
            "The cloud node learns the question and the answer too.",
            soft_wrap=True,
            highlight=False,
        )
    if report.rows:
        console.print(_table(report.rows))
    log = f"What left for each answer is in {report.audit_log}." if report.audit_log else "There is no audit log."
    console.print(log, soft_wrap=True, highlight=False)


def _table(rows: tuple[SendingPlan, ...]) -> Table:
    made = Table(caption="leak: 0 is what a blank picture tells, 1 the picture itself (docs/experiments/leak.md)")
    made.add_column("plan", no_wrap=True)
    for title in ("leak", "bytes of a picture,\nmedian", "bytes of\na token"):
        made.add_column(title, justify="right")
    for row in rows:
        leak = "not measured" if row.leak is None else f"{row.leak:.2f}"
        made.add_row(str(row.plan), leak, f"{row.payload_bytes:,}", f"{row.token_bytes:,}" if row.token_bytes else "")
    return made
