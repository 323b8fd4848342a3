"""A request whose picture comes tile by tile: what can be run of the prompt is run before the last tile is there."""

from __future__ import annotations

import torch

from splitvlm.domain import GREEDY, Cut, CutKind, Sampling
from splitvlm.errors import ProtocolError
from splitvlm.model.boundary import HIDDEN, IDS, Boundary
from splitvlm.model.boundary_checks import check_tile
from splitvlm.model.part import ModelPart
from splitvlm.model.parts import CloudPart
from splitvlm.model.upper_run import UpperRun


def reads_by_tile(part: CloudPart) -> bool:
    """Returns whether the upper part can read a picture's tiles one after another: its rest does not want them all at once."""
    family = part.family
    return (
        family.causal and family.tokens_by_tile and not family.language_sides
    )  # positions are those of the tokens' order


def in_tiles(
    part: CloudPart, cut: Cut, first: Boundary, max_new_tokens: int, sampling: Sampling = GREEDY
) -> TiledRun | None:
    """Returns a run from the first tile that arrived; None where the rest of the model wants them all. Raises ProtocolError."""
    part.check(cut)
    if not reads_by_tile(part):
        return None
    num_tokens = check_tile(part, cut, first, first=True)
    on_device = {name: tensor.to(part.device) for name, tensor in first.items()}
    return TiledRun(part, cut, on_device, num_tokens, max_new_tokens, sampling)


class TiledRun(UpperRun):
    """Runs a prompt as its tiles arrive: `begin` takes the first tile, `add` the others in turn, then comes `first`."""

    def __init__(
        self,
        part: ModelPart,
        cut: Cut,
        first: Boundary,
        num_tokens: int,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
    ) -> None:
        """Begins a run; `num_tokens` is how many visual tokens the first tile becomes."""
        super().__init__(part, cut, first, max_new_tokens, sampling)
        self._first_tokens = num_tokens
        self._ids_T = first[IDS]
        self._places_V = (self._ids_T == part.model.config.image_token_id).nonzero()[:, 0].tolist()
        self._seen = 0  # visual tokens
        self._ran = 0  # tokens of the prompt
        self._states_SD: torch.Tensor | None = None

    @torch.inference_mode()
    def begin(self) -> None:
        """Runs the first tile's upper part, then the prompt as far as it is known. Raises ProtocolError."""
        self._read(self._crossing, self._first_tokens)

    @torch.inference_mode()
    def add(self, tile: Boundary) -> None:
        """Reads the next tile: its upper part, then the prompt as far as it is known. Raises ProtocolError."""
        num_tokens = check_tile(self._part, self._cut, tile, first=False)
        self._read({name: tensor.to(self._part.device) for name, tensor in tile.items()}, num_tokens)

    def _read(self, tile: Boundary, num_tokens: int) -> None:
        if self._seen + num_tokens > len(self._places_V):  # before the tower runs
            raise ProtocolError(f"The prompt has {len(self._places_V)} places, fewer than visual tokens came.")
        visual_VD = self._visual(tile)
        self._seen += num_tokens
        self._run_to(self._places_V[self._seen - 1] + 1, visual_VD)

    @torch.inference_mode()
    def first(self, resume_token_id: int | None = None) -> int:
        """Runs the rest of the prompt; returns the first token id, or `resume_token_id`. Raises ProtocolError."""
        if self._seen != len(self._places_V) or not self._seen:
            raise ProtocolError(f"The prompt has {len(self._places_V)} places for {self._seen} visual tokens.")
        if self._ran < len(self._ids_T):
            self._run_to(len(self._ids_T), None)
        self._crossing, self._prompt = {}, {IDS: self._ids_T}
        self._choice = self._token_choice(self._ids_T, len(self._ids_T))
        assert self._states_SD is not None, "a tile was read"
        return self._choose(self._states_SD, resume_token_id)

    def _visual(self, tile: Boundary) -> torch.Tensor:
        """Returns visual tokens [V, D] of one tile."""
        if self._cut.kind is CutKind.TOKENS:
            return tile[HIDDEN]
        return self._part.tile_tokens(tile | {IDS: self._ids_T}, self._cut.layers)[HIDDEN]

    def _run_to(self, stop: int, visual_VD: torch.Tensor | None) -> None:
        assert self._language is not None, "a model has layers above the cut `tokens`"
        with self._part.clock.stage("embed"):
            states_SD = self._part.family.embed(self._part.model, self._ids_T[self._ran : stop], visual_VD)
        self._states_SD, self._ran = self._language.extend(states_SD), stop
