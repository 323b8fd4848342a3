"""The training losses of the embedded model, and the schedules of their weights and of the learning rate.

Each schedule is a function of `progress`, the share of the run that is done (0..1), so that a run of any length has
the same three stages: the vision tower alone on the grids; connector and language model on the frozen tower; all together.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional
from transformers import SmolVLMForConditionalGeneration

from splitvlm.scenes.batches import IGNORED_LABEL, Batch
from splitvlm.scenes.network import VISUAL_TOKENS, GridHeads, PositionHeads

TOWER_UNTIL = 0.22  # of the run: the tower alone learns, from the grids
FROZEN_UNTIL = 0.26  # of the run: the tower is frozen
WARM_UP = 0.015
LAST_RATE = 0.01  # of the peak rate, at the end
GRID_WEIGHT = 40.0  # a grid has few ones: its mean loss is small, and with a weight of 4 the tower stops improving
POSITIVE_WEIGHT = 2.0
LAST_GRID_SHARE = 0.1
POSITION_WEIGHT = 5.0  # of the squared errors of x positions and x differences
IMAGE_START = 5  # where the first visual token stands: <|im_start|> User : <fake> <global-img>


class Heads(nn.Module):
    """Holds the auxiliary heads, which only training has."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.grids = GridHeads(classes)
        self.positions = PositionHeads()


def learning_rate_share(progress: float, initial_progress: float = 0.0) -> float:
    """Returns the share of the peak learning rate: a cosine from 1 to LAST_RATE after a linear warm-up.

    The warm-up is repeated where the language model begins to learn. A warm start begins its run at `initial_progress`,
    with a warm-up of its own.
    """
    cosine = LAST_RATE + (1 - LAST_RATE) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, progress)))
    since = progress - max(initial_progress, TOWER_UNTIL if progress >= TOWER_UNTIL else 0.0)
    return cosine * min(1.0, since / WARM_UP + 0.02)


def grid_loss_share(progress: float) -> float:
    """Returns the share of the grid loss: 1 while the tower learns alone, then down to LAST_GRID_SHARE at 90 % of the run."""
    return max(LAST_GRID_SHARE, min(1.0, (0.9 - progress) / (0.9 - FROZEN_UNTIL)))


def total_loss(
    model: SmolVLMForConditionalGeneration, heads: Heads, batch: Batch, progress: float, language_only: bool = False
) -> tuple[torch.Tensor, dict[str, float]]:
    """Returns the scalar loss to minimise, and figures to print: grid, answer and position losses, token accuracy.

    With `language_only` the tower and the connector stay frozen, and only the language model learns.
    """
    frozen = language_only or TOWER_UNTIL <= progress < FROZEN_UNTIL
    with torch.set_grad_enabled(not frozen):
        patches = model.model.vision_model(pixel_values=normalised(batch.pixels)).last_hidden_state
    with torch.set_grad_enabled(not language_only):
        tokens = model.model.connector(patches)
    loss, figures = torch.zeros(()), {}
    if not language_only:
        grid = grid_loss(heads.grids, patches, tokens, batch)
        figures["grid"] = float(grid.detach())
        loss = GRID_WEIGHT * grid_loss_share(progress) * grid
    if progress >= TOWER_UNTIL:
        answer, accuracy, position = answer_loss(model, heads.positions, tokens, batch)
        loss = loss + answer + POSITION_WEIGHT * position
        figures |= {"answer": float(answer.detach()), "accuracy": accuracy, "position": float(position.detach())}
    return loss, figures


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """Returns uint8 pixels (B, H, W, 3) as float32 (B, 3, H, W) in -1..1, exactly as the saved processor does."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def grid_loss(heads: GridHeads, patches: torch.Tensor, tokens: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Returns the sum of both grids' mean binary cross-entropies, with ones weighted up by POSITIVE_WEIGHT."""
    weight = torch.tensor(POSITIVE_WEIGHT)
    pairs = zip(heads(patches, tokens), (batch.patch_grid, batch.token_grid), strict=True)
    return sum(
        (
            functional.binary_cross_entropy_with_logits(logits.float(), grid, pos_weight=weight)
            for logits, grid in pairs
        ),
        start=torch.zeros(()),
    )


def answer_loss(
    model: SmolVLMForConditionalGeneration, heads: PositionHeads, tokens: torch.Tensor, batch: Batch
) -> tuple[torch.Tensor, float, torch.Tensor]:
    """Returns the answers' cross-entropy, the share of right answer tokens and the position loss.

    `tokens` are the visual tokens (B, 64, width), which stand in each sequence where its image placeholders are.
    """
    words = model.get_input_embeddings()(batch.ids)
    after = IMAGE_START + VISUAL_TOKENS
    embedded = torch.cat([words[:, :IMAGE_START], tokens.to(words.dtype), words[:, after:]], dim=1)
    attention_bias = torch.zeros(batch.mask.shape, dtype=embedded.dtype).masked_fill_(~batch.mask, -1e9)
    run = model.model.text_model(
        inputs_embeds=embedded,
        attention_mask=attention_bias,
        position_ids=batch.position_ids,
        use_cache=False,
        output_hidden_states=True,
    )
    has_label = batch.labels != IGNORED_LABEL
    logits = model.lm_head(run.last_hidden_state[has_label]).float()
    labels = batch.labels[has_label]
    accuracy = (logits.argmax(-1) == labels).float().mean()
    pairs = zip(heads(run.hidden_states), (batch.x_positions, batch.x_differences), strict=True)
    position = sum((_known_error(predicted, target) for predicted, target in pairs), torch.zeros(()))
    return functional.cross_entropy(logits, labels), float(accuracy), position


def _known_error(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Returns the mean squared error over the targets that are not NaN; 0 where all are."""
    known = ~target.isnan()
    return functional.mse_loss(predicted[known].float(), target[known]) if known.any() else torch.zeros(())
