"""Measures, without labels, how much a model's answers depend on each direction of what crosses a cut (Fisher information)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from splitvlm.domain import TOKENS, Cut, CutKind
from splitvlm.files.pictures import to_rgb
from splitvlm.model.families import family_of
from splitvlm.model.loading import load_whole
from splitvlm.model.processors import prompt_inputs
from splitvlm.model.prompt import Prompt

MAX_NEW_TOKENS = 16
_CONNECTORS = ("connector", "multi_modal_projector", "visual.merger")


def sensitivity(name: str, asked: Sequence[tuple[Image.Image, str]], cut: Cut = TOKENS) -> np.ndarray[Any, Any]:
    """Returns G [C, C]: mean over tokens at the cut and answers of g·g', g the gradient of an answer's log-likelihood.

    The answers are sampled from the model's own distribution: that makes it the Fisher information, not the empirical one
    (Kunstner et al., NeurIPS 2019).
    """
    torch.manual_seed(0)
    model, processor = load_whole(name)
    sum_CC, count = None, 0
    for image, question in asked:
        g_NC = _gradient(model, processor, image, question, cut)
        sum_CC = g_NC.T @ g_NC if sum_CC is None else sum_CC + g_NC.T @ g_NC
        count += len(g_NC)
    assert sum_CC is not None, "no pictures"
    return (sum_CC / count).double().numpy()


def _gradient(model: Any, processor: Any, image: Image.Image, question: str, cut: Cut) -> torch.Tensor:
    """Returns the gradient [N, C], a row for each token that crosses."""
    inputs = prompt_inputs(processor, Prompt.about(to_rgb(image), question))
    start = inputs["input_ids"].shape[1]
    ids = model.generate(
        **inputs,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=MAX_NEW_TOKENS,
        suppress_tokens=_places_of_pictures(model.config),
    )
    whole = _with_answer(inputs, ids)
    leaves: list[torch.Tensor] = []

    def detach(module: nn.Module, arguments: Any, output: Any) -> Any:
        whole_output = isinstance(output, torch.Tensor)
        leaves.append((output if whole_output else output[0]).detach().requires_grad_(True))
        return leaves[-1] if whole_output else (leaves[-1], *output[1:])

    hook = _below(model, cut).register_forward_hook(detach)
    try:
        with torch.enable_grad():
            scores_TV = model(**whole).logits[0, start - 1 : -1].log_softmax(-1)
            scores_TV.gather(1, ids[0, start:, None]).sum().backward()
    finally:
        hook.remove()
    return torch.cat([leaf.grad.reshape(-1, leaf.shape[-1]) for leaf in leaves if leaf.grad is not None])


def _places_of_pictures(config: Any) -> list[int]:
    """Returns the ids that stand for pictures: one in an answer would be a place without a picture."""
    names = ("image_token_id", "video_token_id")
    return [getattr(config, name) for name in names if getattr(config, name, None) is not None]


def _with_answer(inputs: dict[str, torch.Tensor], ids_BT: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns the prompt's inputs made as long as prompt and answer: what tells kinds of tokens apart says 0, text, of the
    answer.
    """
    prompt_shape = inputs["input_ids"].shape
    added = ids_BT.shape[1] - prompt_shape[1]
    longer = {
        name: nn.functional.pad(value, (0, added)) for name, value in inputs.items() if value.shape == prompt_shape
    }
    return {**inputs, **longer, "input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT)}


def _below(model: Any, cut: Cut) -> nn.Module:
    """Returns the module whose output crosses the cut."""
    if cut.kind is CutKind.TOKENS:
        return _connector(model)
    layout = family_of(model.config.model_type, "").layout
    layers = layout.vision if cut.kind is CutKind.VISION else f"{layout.language}layers."
    module: nn.Module = model.get_submodule(f"{layers}{cut.layers - 1}")
    return module


def _connector(model: Any) -> nn.Module:
    """Returns the module whose output are the visual tokens, in whatever order."""
    paths = [path for path in _CONNECTORS if hasattr(model.model, path.partition(".")[0])]
    module: nn.Module = model.model.get_submodule(paths[0])
    return module
