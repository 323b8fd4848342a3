"""Fields of OpenAI's and vLLM's APIs that would change the answer and that this API does not have.

A request that sets one is refused by name, for its answer would not be what it asked for. Values that change nothing are taken.
All other fields that are not read (fields.py) are ignored, as vLLM ignores them: `user`, `metadata`, `store`, ...
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_node.local.http.errors import RequestRefused

UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "continue_final_message": (False,),
    "documents": ([],),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "ignore_eos": (False,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "presence_penalty": (0,),
    "prompt_logprobs": (0,),
    "stop_token_ids": ([],),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "use_beam_search": (False,),
    "web_search_options": (),
}
"""Each field's values that change nothing, beside null."""


def check_supported(body: Mapping[str, Any]) -> None:
    """Raises RequestRefused for a field that would change the answer."""
    for name, neutral in UNSUPPORTED.items():
        value = body.get(name)
        if value is not None and value not in neutral:
            raise RequestRefused(
                f"'{name}' is not supported.", advice="Leave it out.", param=name, code="unsupported_parameter"
            )
