"""The privacy door: what may leave the device of a picture, by the `privacy` section and the leaks that the device measured.

A request asks here right before each attempt to send, whatever plan it has and whoever chose it: the policy, a caller, a
configuration, an orchestrator, or a take-over. What was not measured is unknown, and no limit allows it.
"""

from __future__ import annotations

from collections.abc import Mapping

from edge_node.settings import Privacy
from splitvlm.domain import DEVICE, Plan
from splitvlm.errors import PrivacyRefused


class PrivacyDoor:
    """Guards a whole node: other settings count for running requests too, from their next attempt on."""

    def __init__(self, settings: Privacy, leaks: Mapping[Plan, float]) -> None:
        """Takes the leaks that were measured on this device's copy of the model."""
        self._settings = settings
        self._leaks = leaks

    def use(self, settings: Privacy) -> None:
        """Takes other settings, from now on."""
        self._settings = settings

    @property
    def lets_nothing_out(self) -> bool:
        """Tells whether no cloud node is to be dialled at all."""
        return self._settings.mode == "device_only"

    @property
    def may_cache_prefix(self) -> bool:
        """Tells whether a cloud node may cache a prompt's prefix after its answer."""
        return self._settings.mode is None

    def leak(self, plan: Plan) -> float | None:
        """Returns what the plan tells of a picture, from 0 (a blank one) to 1 (the picture); None where it was not measured."""
        if plan.cut == DEVICE:
            return 0.0
        return self._leaks.get(plan)

    def allows(self, plan: Plan) -> bool:
        """Returns whether the plan's bytes may leave."""
        return not self._objection(plan)

    def check(self, plan: Plan) -> None:
        """Raises PrivacyRefused where the plan's bytes may not leave."""
        objection = self._objection(plan)
        if objection:
            raise PrivacyRefused(
                objection,
                advice="`splitvlm privacy check CONFIG` lists the plans that are allowed; `device` always is.",
            )

    def _objection(self, plan: Plan) -> str:
        settings, leak = self._settings, self.leak(plan)
        if settings.mode is None or plan.cut == DEVICE:
            return ""
        if settings.mode == "device_only":
            return (
                f"{plan} is forbidden by privacy.mode: with `device_only` nothing that is made from a picture leaves."
            )
        limit = settings.max_leak
        assert limit is not None, "settings are checked where they enter"
        if leak is None:
            return f"{plan} is forbidden by privacy.max_leak = {limit:g}: what it leaks was not measured."
        return "" if leak <= limit else f"{plan} leaks {leak:.2f} of a picture, and privacy.max_leak is {limit:g}."


EVERYTHING_MAY_LEAVE = PrivacyDoor(Privacy(), {})
"""For tools and tests that send drawn pictures."""
