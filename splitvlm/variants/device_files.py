"""Writes down what a device without torch needs of a model, as its processor says it, and tries it against the processor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from splitvlm.domain import IMAGE, Conversation
from splitvlm.errors import UsageError
from splitvlm.exported.device_file import TOKENIZER_FILE, DeviceFile, PictureSteps, PromptRules, write_device_file
from splitvlm.exported.pictures import grid_of, tiles_of
from splitvlm.exported.prompts import Prompts
from splitvlm.model.loading import load_device
from splitvlm.model.prompt import Prompt
from splitvlm.model.sampling import end_token_ids

if TYPE_CHECKING:
    from splitvlm.model.parts import DevicePart

_ALWAYS = ("do_convert_rgb", "do_resize", "do_rescale", "do_normalize", "do_pad")
_TRIED_PX = ((96, 64), (61, 200))


def write_device_files(folder: Path, model: str) -> str:
    """Writes device.json and tokenizer.json of a model; returns why it cannot be, empty where it was. Raises OSError."""
    part = load_device(model, [IMAGE])
    try:
        content = _content(part)
    except UsageError as error:
        return error.sentence
    part.tokenizer.backend_tokenizer.save(str(folder / TOKENIZER_FILE))
    reason = _difference(part, folder, content)
    if reason:
        (folder / TOKENIZER_FILE).unlink()
        return reason
    write_device_file(folder, content)
    return ""


def _content(part: DevicePart) -> DeviceFile:
    """Raises UsageError for a processor whose steps are not known here."""
    return DeviceFile.of(
        part.spec,
        picture=_picture_steps(part),
        prompt=_prompt_rules(part.processor),
        image_token_id=part.model.config.image_token_id,
        end_token_ids=tuple(sorted(end_token_ids(part.model))),
    )


def _picture_steps(part: DevicePart) -> PictureSteps:
    images = part.processor.image_processor
    if part.family.name != "idefics3" or not all(getattr(images, name, False) for name in _ALWAYS):
        raise UsageError("Devices without torch prepare pictures of SmolVLM and Idefics3 only.")
    return PictureSteps(
        family="idefics3",
        longest_edge=images.size["longest_edge"],
        tile_edge=images.max_image_size["longest_edge"],
        divided=images.do_image_splitting,
        resample=int(images.resample),
        scale=images.rescale_factor,
        mean=tuple(images.image_mean),
        std=tuple(images.image_std),
    )


def _prompt_rules(processor: Any) -> PromptRules:
    tokenizer = processor.tokenizer
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return PromptRules(
        template=processor.chat_template,
        variables=dict(tokenizer.special_tokens_map),
        bos_token=tokenizer.bos_token or "",
        image_token=processor.image_token,
        around_image=processor.fake_image_token,
        whole_image=processor.global_image_tag,
        tokens_a_tile=processor.image_seq_len,
        special_tokens=tuple(sorted({token for token in (*tokenizer.all_special_tokens, *added) if token})),
    )


def _difference(part: DevicePart, folder: Path, content: DeviceFile) -> str:
    """Returns where what is written down differs from the processor, on some made-up pictures; empty where it does not."""
    prompts, question = Prompts(folder, content), "What is this?"
    for width, height in _TRIED_PX:
        noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
        picture = Image.fromarray(noise)
        inputs = part.inputs(Prompt.about(picture, question))
        ids = prompts.ids(Conversation.about(question), [grid_of(width, height, content.picture)])
        if ids != inputs["input_ids"][0].tolist():
            return "The prompt that is made without transformers is not the processor's."
        tiles = tiles_of(picture, content.picture)
        if not np.array_equal(tiles, part.family.tile_pixels(inputs).cpu().numpy()):
            return "The pixels that are prepared without transformers are not the processor's."
    return ""
