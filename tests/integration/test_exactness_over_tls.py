"""Law 1 and law 2 together: at every cut of every family, the tokens of a device and a cloud node that share nothing but
mutual TLS and sealed frames equal those of transformers' own `generate`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from splitvlm.crypto.identity import Role
from splitvlm.domain import DEVICE
from splitvlm.model.loading import read_spec
from splitvlm.model.prompt import Prompt
from splitvlm.model.reference import reference_tokens
from splitvlm.scenes import MODEL_DIR
from tests.nodes import Keys, cloud_node, device
from tests.samples import PICTURE, tiny_model
from tests.tiny_models import FAMILIES

TOKENS = 12
TRAINED = MODEL_DIR / "model.safetensors"


def asked(count: int) -> list[tuple[Image.Image, str]]:
    pictures = [PICTURE, PICTURE.resize((90, 40)), PICTURE.transpose(Image.Transpose.ROTATE_90).resize((64, 64))]
    questions = ["How many cells are infected?", "Is there a lake?", "Describe the picture."]
    return list(zip(pictures, questions, strict=True))[:count]


@pytest.mark.parametrize("kind", [*FAMILIES, "scenes"])
async def test_every_cut_gives_the_tokens_of_generate(kind: str, tmp_path: Path) -> None:
    if kind == "scenes" and not TRAINED.exists():
        pytest.skip("the embedded model's weights are not in this checkout")
    model = kind if kind == "scenes" else tiny_model(kind)
    questions = asked(2)
    expected = reference_tokens(model, [Prompt.about(*question) for question in questions], TOKENS)
    keys = Keys(tmp_path / "keys")
    different = []
    async with cloud_node(model, keys) as cloud, device(model, cloud, keys.identity("edge-1", Role.EDGE)) as camera:
        for cut in read_spec(model).cuts():
            plan = "device" if cut == DEVICE else f"{cut}/lossless"
            got = [(await camera.ask(plan, *one, TOKENS)).token_ids for one in questions]
            if got != expected:
                different.append(str(cut))
    assert not different
    assert expected[0] != expected[1], "two questions with one answer would prove little"
