"""The embedded model's tokenizer: byte-level, with each word of the corpus as one token.

A word that the vocabulary holds (with or without its leading space) is one token; any other text becomes bytes, so
nothing is ever unknown. There are no merges: `ignore_merges` looks whole words up first.
"""

from __future__ import annotations

import re
import string
from functools import cache

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from splitvlm.scenes import phrases
from splitvlm.scenes.questions import DOMAIN_MODULES, candidates, draw

PAD, BOS, EOS = "<pad>", "<|im_start|>", "<end_of_utterance>"
FAKE, GLOBAL, IMAGE = "<fake_token_around_image>", "<global-img>", "<image>"
SPECIALS = (PAD, BOS, EOS, FAKE, GLOBAL, IMAGE)
LARGEST_NUMBER = 20
_SAMPLED_PICTURES = 150  # of each domain: enough to meet every word, which a test checks
# The part of transformers' SmolVLM template that serves one question: an image, then its text.
CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% if message['content'] is string %}{{ message['content'] | trim }}"
    "{% else %}{% for line in message['content'] %}"
    "{% if line['type'] == 'text' %}{{ line['text'] | trim }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}"
    "{% endfor %}{% endif %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


@cache
def words() -> tuple[str, ...]:
    """Returns every word of all phrasings and answers, the domain that is not trained included, in a fixed order."""
    texts = [value for name in dir(phrases) if name.isupper() for value in getattr(phrases, name)]
    rng = np.random.default_rng(0)
    for domain in DOMAIN_MODULES:
        for seed in range(_SAMPLED_PICTURES):
            for question in candidates(draw(domain, seed), rng):
                texts += [question.text, question.answer]
    vocabulary = {word for text in texts for word in re.findall(r"[A-Za-z]+", text)}
    vocabulary |= {str(number) for number in range(LARGEST_NUMBER + 1)} | {"User", "Assistant"}
    return tuple(sorted(vocabulary))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Returns the tokenizer, always with the same ids; it pads on the left."""
    vocabulary = {token: index for index, token in enumerate(SPECIALS)}
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet())]
    for word in words():
        pieces += [word, "Ġ" + word]
    pieces += ["Ġ" + sign for sign in string.punctuation]
    for piece in pieces:
        vocabulary.setdefault(piece, len(vocabulary))
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
