"""The embedded model's shape and its starting weights.

5.9 million parameters: 256 px in 16 px patches, a tower of six layers, pixel shuffle to 64 visual tokens, a language
model of four. The network itself is SmolVLM's of transformers.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase, SmolVLMConfig, SmolVLMForConditionalGeneration

from splitvlm.scenes.scene import EDGE
from splitvlm.scenes.tokenizer import IMAGE

PATCH = 16
SHUFFLE = 2
PATCH_GRID = EDGE // PATCH  # 16 patches a side
TOKEN_GRID = PATCH_GRID // SHUFFLE  # 8 visual tokens a side
VISUAL_TOKENS = TOKEN_GRID**2
VISION = {"hidden_size": 192, "intermediate_size": 576, "num_hidden_layers": 6, "num_attention_heads": 3}
TEXT = {"hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 4, "num_attention_heads": 4}
POSITION_STD = 0.3  # of the tower's position embedding, against patch embeddings of about 0.5


def config(tokenizer: PreTrainedTokenizerBase) -> SmolVLMConfig:
    """Returns the model's configuration, with the ids and the vocabulary (rounded up to 8) of the tokenizer."""
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    special = {f"{name}_token_id": value for name, value in ids.items()}
    vocabulary = (len(tokenizer) + 7) // 8 * 8
    text = {
        "model_type": "llama", "vocab_size": vocabulary, "num_key_value_heads": TEXT["num_attention_heads"],
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    }  # fmt: skip
    return SmolVLMConfig(
        vision_config={**VISION, "image_size": EDGE, "patch_size": PATCH},
        text_config={**TEXT, **text, **special},
        scale_factor=SHUFFLE,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        tie_word_embeddings=True,
        **special,
    )


def fresh(tokenizer: PreTrainedTokenizerBase, seed: int) -> SmolVLMForConditionalGeneration:
    """Returns a model with random weights of the size that lets this small a text model learn.

    With transformers' deviation of 0.02 the loss stays at the prior; 1/sqrt(inputs) everywhere, and less where a layer
    adds to the residual stream (GPT-2's rule), is what works.
    """
    torch.manual_seed(seed)
    model = SmolVLMForConditionalGeneration(config(tokenizer))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not name.endswith("lm_head"):
            layers = VISION["num_hidden_layers"] if "vision" in name else TEXT["num_hidden_layers"]
            into_residual = name.endswith(("out_proj", "fc2", "o_proj", "down_proj"))
            scale = (2 * layers) ** -0.5 if into_residual else 1.0
            nn.init.normal_(module.weight, std=scale * module.in_features**-0.5)
    nn.init.normal_(model.model.text_model.embed_tokens.weight, std=TEXT["hidden_size"] ** -0.5)
    nn.init.normal_(model.model.vision_model.embeddings.position_embedding.weight, std=POSITION_STD)
    patches = model.model.vision_model.embeddings.patch_embedding
    nn.init.normal_(patches.weight, std=(3 * PATCH * PATCH) ** -0.5)
    return model


class GridHeads(nn.Module):
    """Says which classes of things stand in each cell, from the tower's patches and from the connector's tokens.

    Only training has these heads; they give each cell of a picture its own loss. Logits (B, cells, classes).
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.patches = nn.Linear(VISION["hidden_size"], classes)
        self.tokens = nn.Linear(TEXT["hidden_size"], classes)

    def forward(self, patches: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the logits of the patches' grid and of the tokens' grid; inputs (B, cells, width)."""
        return self.patches(patches), self.tokens(tokens)


class PositionHeads(nn.Module):
    """Predicts where a named landmark stands, and how far two that are compared are apart, from states of the text model.

    Only training has these heads. They read the states after POSITIONS_AFTER and DIFFERENCES_AFTER layers: no comparison can
    be made before both positions are known.
    """

    POSITIONS_AFTER = 2
    DIFFERENCES_AFTER = 3

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Linear(TEXT["hidden_size"], 1)
        self.differences = nn.Linear(TEXT["hidden_size"], 1)

    def forward(self, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns x positions and x differences, (B, L) each; `states` are those before each layer and after the last."""
        positions = self.positions(states[self.POSITIONS_AFTER])
        differences = self.differences(states[self.DIFFERENCES_AFTER])
        return positions[..., 0], differences[..., 0]
