"""What one training step computes, and how the weights of its losses and its rate change over a run.

Everything here is a function of `progress`, the share of the run that is done (0..1), so that a run of any length has
the same three stages: the tower alone on the grids; connector and language model on the frozen tower; all together.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional
from transformers import SmolVLMForConditionalGeneration

from splitvlm.scenes.batches import ASIDE, Batch
from splitvlm.scenes.network import VISUAL_TOKENS, GridHeads, PlaceHeads

TOWER_UNTIL = 0.22  # of the run: the grids only
FROZEN_UNTIL = 0.26  # of the run: the tower rests
WARM_UP = 0.015
LAST_RATE = 0.01  # of the peak rate, at the end
GRID_WEIGHT = 40.0  # a grid has few ones: its mean loss is small, and with a weight of 4 the tower stops improving
POSITIVE_WEIGHT = 2.0
LAST_GRID_SHARE = 0.1
PLACE_WEIGHT = 5.0  # of the squared errors of places and differences
IMAGE_START = 5  # where the first visual token stands: <|im_start|> User : <fake> <global-img>


class Heads(nn.Module):
    """What only training has."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.grids = GridHeads(classes)
        self.places = PlaceHeads()


def rate(progress: float, began: float = 0.0) -> float:
    """Cosine from 1 to LAST_RATE after a linear warm-up, which is repeated where the language model enters.

    A warm start begins its run at `began`, with a warm-up of its own.
    """
    cosine = LAST_RATE + (1 - LAST_RATE) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, progress)))
    since = progress - max(began, TOWER_UNTIL if progress >= TOWER_UNTIL else 0.0)
    return cosine * min(1.0, since / WARM_UP + 0.02)


def grid_share(progress: float) -> float:
    """The weight of the grid loss: whole while the tower learns alone, then down to LAST_GRID_SHARE at 90 %."""
    return max(LAST_GRID_SHARE, min(1.0, (0.9 - progress) / (0.9 - FROZEN_UNTIL)))


def losses(
    model: SmolVLMForConditionalGeneration, heads: Heads, batch: Batch, progress: float, resting: bool = False
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss to follow, and the figures to show: grid, answer and place losses, share of right answer tokens.

    `resting`: tower and connector stay as they are, and only the language model learns.
    """
    frozen = resting or TOWER_UNTIL <= progress < FROZEN_UNTIL
    with torch.set_grad_enabled(not frozen):
        patches = model.model.vision_model(pixel_values=normalised(batch.pixels)).last_hidden_state
    with torch.set_grad_enabled(not resting):
        tokens = model.model.connector(patches)
    loss, shown = torch.zeros(()), {}
    if not resting:
        grid = grid_loss(heads.grids, patches, tokens, batch)
        shown["grid"] = float(grid.detach())
        loss = GRID_WEIGHT * grid_share(progress) * grid
    if progress >= TOWER_UNTIL:
        answer, right, place = answer_loss(model, heads.places, tokens, batch)
        loss = loss + answer + PLACE_WEIGHT * place
        shown |= {"answer": float(answer.detach()), "right": right, "place": float(place.detach())}
    return loss, shown


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (B, H, W, 3) to float (B, 3, H, W) in -1..1, as the saved processor does it."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def grid_loss(heads: GridHeads, patches: torch.Tensor, tokens: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Binary cross-entropy of both grids, ones weighted up."""
    logits = heads(patches, tokens)
    weight = torch.tensor(POSITIVE_WEIGHT)
    pairs = zip(logits, (batch.patch_grid, batch.token_grid), strict=True)
    return sum(
        (functional.binary_cross_entropy_with_logits(a.float(), b, pos_weight=weight) for a, b in pairs),
        start=torch.zeros(()),
    )


def answer_loss(
    model: SmolVLMForConditionalGeneration, heads: PlaceHeads, tokens: torch.Tensor, batch: Batch
) -> tuple[torch.Tensor, float, torch.Tensor]:
    """Cross-entropy on the tokens of the answers, behind the visual tokens (B, 64, width), and the error of places."""
    words = model.get_input_embeddings()(batch.ids)
    after = IMAGE_START + VISUAL_TOKENS
    embedded = torch.cat([words[:, :IMAGE_START], tokens.to(words.dtype), words[:, after:]], dim=1)
    barred = torch.zeros(batch.mask.shape, dtype=embedded.dtype).masked_fill_(~batch.mask, -1e9)
    run = model.model.text_model(
        inputs_embeds=embedded,
        attention_mask=barred,
        position_ids=batch.positions,
        use_cache=False,
        output_hidden_states=True,
    )
    asked = batch.labels != ASIDE
    logits = model.lm_head(run.last_hidden_state[asked]).float()
    labels = batch.labels[asked]
    right = (logits.argmax(-1) == labels).float().mean()
    said = heads(run.hidden_states)
    place = sum((_error(*pair) for pair in zip(said, (batch.places, batch.differences), strict=True)), torch.zeros(()))
    return functional.cross_entropy(logits, labels), float(right), place


def _error(said: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Mean squared error where there is something to learn (not NaN)."""
    known = ~true.isnan()
    return functional.mse_loss(said[known].float(), true[known]) if known.any() else torch.zeros(())


class Average:
    """The running mean of a model's weights: steadier than the last step's. Early steps are forgotten faster."""

    def __init__(self, model: nn.Module, decay: float = 0.998) -> None:
        self.decay, self.updates = decay, 0
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        for name, value in model.state_dict().items():
            self.weights[name].lerp_(value.detach(), 1 - decay)
