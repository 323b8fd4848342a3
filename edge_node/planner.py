"""Chooses the plan of the next question: the fixed one, the caller's, or the policy's pick from the newest table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from edge_node.privacy import PrivacyDoor
from edge_node.served import ServedForm
from edge_node.settings import EdgePlanning
from splitvlm.codec.codec import Codec
from splitvlm.domain import DEVICE, FULL, IMAGE, TOKENS, Cut, Plan
from splitvlm.errors import ConfigError, PeerUnavailable, UsageError
from splitvlm.link.estimator import LinkEstimate
from splitvlm.planning.policy import Choice, LinkView
from splitvlm.planning.table import PlanTable, deciding_rates

QUESTION_BYTES = 150  # of a question whose picture is in the prefix cache, sealed


class Planner:
    """Holds the table. A new table counts from the next request on."""

    def __init__(
        self,
        settings: EdgePlanning,
        cuts: tuple[Cut, ...],
        codec: Codec,
        privacy: PrivacyDoor,
        variants: Sequence[ServedForm] = (),
    ) -> None:
        """Takes the model's own form and those of variants. Raises ConfigError, PrivacyRefused."""
        self._settings = settings
        self._privacy = privacy
        self._forms = {form.name: form for form in (ServedForm(cuts, codec), *variants)}
        self._policy = settings.policy()
        self._table: PlanTable | None = None
        self._allowed: PlanTable | None = None
        self._fixed = self._checked_settings(settings)
        self.notice = ""  # the orchestrator's sentence about plans that it leaves out because nobody measured them
        self.no_table = "No orchestrator is configured, so that there is no plan table."  # said while there is none

    @property
    def table(self) -> PlanTable | None:
        """Returns the newest table without what this node's limits forbid: leaks in a table came over the network."""
        return self._allowed

    @table.setter
    def table(self, table: PlanTable | None) -> None:
        self._table = table
        limits = self._settings.limits()
        lines = tuple(
            line
            for line in (table.lines if table else ())
            if not limits.forbidding(line) and self._privacy.allows(line.plan)
        )
        self._allowed = PlanTable(table.version, lines) if table and lines else None

    def check_table(self, table: PlanTable) -> None:
        """Raises UsageError where a line is for a plan that this node cannot run."""
        for line in table.lines:
            self._check_exists(line.plan)

    def _check_exists(self, plan: Plan) -> None:
        """Raises UsageError unless the model, its variant, the codec and this node's memory have the plan."""
        form = self._forms.get(plan.variant)
        if form is None:
            raise UsageError(
                f"This edge node has no variant {plan.variant}.",
                advice=f"It has {', '.join(self._forms)}; `variants` and planning.device_memory_bytes decide.",
            )
        if plan.cut not in form.cuts:
            known = ", ".join(map(str, form.cuts)) or "none"
            by = "" if plan.variant == FULL else f" by the variant {plan.variant}"
            raise UsageError(
                f"This edge node does not serve the cut {plan.cut}{by}.",
                advice=f"It serves {known}; planning.cuts, privacy and planning.device_memory_bytes decide.",
            )
        if plan.cut != DEVICE:
            form.codec.check(plan.cut, plan.level)

    def deciding_bps(self, rtt_s: float) -> Sequence[float]:
        """Returns the uplink rates at which the choice of plan changes. None where a plan is fixed."""
        if self._fixed is not None or self._allowed is None:
            return ()
        return deciding_rates(self._allowed.lines, rtt_s, self._settings.expected_tokens)

    @property
    def can_finish_alone(self) -> bool:
        """Tells whether the device can answer without a cloud node."""
        return DEVICE in self.cuts

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """Returns the cuts that this node serves in any form."""
        return tuple(dict.fromkeys(cut for form in self._forms.values() for cut in form.cuts))

    def use(self, settings: EdgePlanning) -> None:
        """Takes other settings, or another answer of the privacy door, from the next request on.

        Raises ConfigError or PrivacyRefused for what cannot run; nothing changes then.
        """
        fixed = self._checked_settings(settings)
        if settings.policy_options() != self._settings.policy_options():
            self._policy = settings.policy()
        self._settings, self._fixed = settings, fixed
        self.table = self._table

    def _checked_settings(self, settings: EdgePlanning) -> Plan | None:
        """Returns the fixed plan, where there is one. Raises ConfigError for levels and plans that nothing here has."""
        own = {level for form in self._forms.values() for level in _levels(form.codec, form.cuts)}
        known = own.union(*(_levels(form.codec, (IMAGE, TOKENS)) for form in self._forms.values()))
        if unknown := sorted(set(settings.levels) - known):
            raise ConfigError(
                f"planning.levels names {', '.join(unknown)}, which no cut of this model has.",
                advice=f"Levels are {', '.join(sorted(known))}.",
            )
        if settings.levels and not self.can_finish_alone and not own & set(settings.levels):
            raise ConfigError(
                f"planning.levels leaves no plan: the cuts of this node are {', '.join(map(str, self.cuts))}.",
                advice=f"Their levels are {', '.join(sorted(own))}.",
            )
        if settings.fixed_plan is None:
            return None
        try:
            return self.checked(settings.fixed_plan)
        except UsageError as error:
            raise ConfigError(f"planning.fixed_plan: {error.sentence}", advice=error.advice) from error

    def spent(self, n_bytes: int) -> None:
        """Books sealed bytes against planning.bytes_per_day."""
        if n_bytes:
            self._policy.spent(n_bytes, time.monotonic())

    def checked(self, text: str) -> Plan:
        """Returns a plan by its text, if this node can run it and may. Raises UsageError, PrivacyRefused."""
        plan = Plan.parse(text)
        self._privacy.check(plan)
        self._check_exists(plan)
        return plan

    def choose(
        self, wanted: str, link: LinkEstimate | None, cloud_reachable: bool, cached: Plan | None = None
    ) -> Choice:
        """Chooses the plan: `wanted` by the caller, if not empty. Under the plan `cached` the cloud has the prompt's prefix.

        Raises UsageError, PrivacyRefused, PeerUnavailable.
        """
        if wanted:
            return self._choice_of(self.checked(wanted), "asked for", link)
        if self._fixed is not None:
            return self._choice_of(self._fixed, "fixed by planning.fixed_plan", link)
        table = self.table
        if table is None:
            return self._without_table()
        view = _view(link) if link else LinkView(1.0, 1.0, 0.0)
        choice = self._policy.pick(
            table if cached is None else _with_cached_prefix(table, cached),
            view,
            self._settings.expected_tokens,
            time.monotonic(),
            cloud_reachable=cloud_reachable and link is not None,
        )
        if choice.plan is None:
            raise PeerUnavailable(
                "The cloud node does not answer, and no allowed plan runs on this device alone.",
                advice="Start the cloud node, or let the device hold the whole model (planning.device_memory_bytes).",
            )
        return choice

    def _choice_of(self, plan: Plan, reason: str, link: LinkEstimate | None) -> Choice:
        line = next((line for line in self.table.lines if line.plan == plan), None) if self.table else None
        if line is None or link is None:
            return Choice(plan, 0.0, 0.0, reason)
        seconds = line.latency_s(link.uplink_bps, link.rtt_s, self._settings.expected_tokens)
        return Choice(plan, seconds, seconds, reason)

    def _without_table(self) -> Choice:
        alone = next((name for name, form in self._forms.items() if DEVICE in form.cuts), None)
        if alone is not None:
            return Choice(Plan(DEVICE, "none", alone), 0.0, 0.0, f"no plan table: {self.no_table}")
        raise PeerUnavailable(
            f"There is no plan table: {self.no_table}",
            advice="Without an orchestrator, set planning.fixed_plan and `cloud`.",
        )


def _levels(codec: Codec, cuts: Sequence[Cut]) -> set[str]:
    return {level for cut in cuts if cut != DEVICE for level in codec.levels(cut)}


def _with_cached_prefix(table: PlanTable, cached: Plan) -> PlanTable:
    """Returns what plans cost a picture whose prefix is cached under one of them: that one sends the question only.

    Its prefill was not measured and is shorter than what the line says.
    """
    lines = (
        replace(line, device_s=0.0, encode_s=0.0, decode_s=0.0, payload_bytes=QUESTION_BYTES)
        if line.plan == cached
        else line
        for line in table.lines
    )
    return PlanTable(table.version, tuple(lines))


def _view(link: LinkEstimate) -> LinkView:
    return LinkView(link.uplink_bps, link.rtt_s, link.spread, link.peak_bps, link.forecast, link.tail_bps)
