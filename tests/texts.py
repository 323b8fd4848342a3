"""Texts of several kinds that an installation of Python, or of splitvlm, carries: for calibration, and for a test of it.

No text of CALIBRATION's kinds is a licence, and no module among them quotes one: licences are the kind that is held out.
"""

from __future__ import annotations

import html.entities
import importlib
import importlib.metadata
import json
import mimetypes
import os
import pydoc
import pydoc_data.topics
import random
import shutil
import sysconfig
import textwrap
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
SOURCES = ("dataclasses", "statistics", "heapq")
DOCUMENTED = ("textwrap", "pathlib", "random")
LICENSED = ("numpy", "pillow", "num2words", "transformers")
"""Packages that splitvlm needs, of different licences: BSD, HPND and those of a dozen libraries, LGPL, Apache."""
HOUSEHOLD_CHAT = (
    ("Hi! Can you help me plan dinner for six?", "Of course! Does anybody avoid meat, nuts or milk? If not, a big lasagne "
     "with a green salad is easy: you can make it the day before, and it needs forty minutes in the oven."),
    ("my bike makes a clicking noise when i pedal hard, what is it", "Most often it's the bottom bracket or a loose pedal. "
     "First tighten both pedals. If it still clicks, stand up and pedal: a noise that goes away comes from the saddle."),
    ("Translate into French: Where is the station?", "Où est la gare ?"),
    ("What's 15% of 84?", "15% of 84 is 12.6: 10% is 8.4, 5% is 4.2, and together they make 12.6."),
    ("Write a short poem about rain.", "Soft on the roof it starts to play,\nA drum for the end of a dusty day;\n"
     "The gutters hum, the gardens drink,\nAnd I have time to sit and think."),
    ("Why is the sky blue?", "Sunlight holds all colours. Air scatters short waves much more than long ones, so blue light "
     "reaches your eye from every direction, while red and yellow come straight from the sun."),
    ("Is the man in the picture wearing a hat?", "Yes. He wears a grey hat and a dark coat, and stands beside a red bus."),
    ("I feel nervous about my job interview tomorrow.", "That is quite normal. Pick three things that you are proud of, say "
     "them aloud tonight, and lay out your clothes. Tomorrow, breathe out slowly before you go in. You will do fine."),
)  # fmt: skip
Chat = Callable[[list[dict[str, str]]], str]
"""Makes a text of a conversation, as the model's template wants it."""


def reference(every: slice) -> str:
    """Topics of the Python Language Reference, in the order of their names."""
    return "\n\n".join([text for _, text in sorted(pydoc_data.topics.topics.items())][every])


def mixed(chat: Chat) -> list[str]:
    """One text of each kind: reference, source code, documentation, data, letters, chat."""
    return [reference(slice(None, None, 2)), _sources(), _documentation(), _data(), _letters(), _chats(chat)]


def licences() -> list[str]:
    """That of Python, then those of LICENSED."""
    texts = [(STANDARD_LIBRARY / "LICENSE.txt").read_text()]
    for name in LICENSED:
        files = sorted(importlib.metadata.files(name) or (), key=str)
        file = next(file for file in files if file.name.startswith(("LICENSE", "COPYING")) and "info" in str(file))
        texts.append(file.read_text())
    return texts


def _sources() -> str:
    """From the middle of modules: their heads are prose."""
    texts = [(STANDARD_LIBRARY / f"{name}.py").read_text() for name in SOURCES]
    return "\n\n".join(text[len(text) // 2 :][:5000] for text in texts)


def _documentation() -> str:
    texts = [pydoc.plaintext.document(importlib.import_module(name)) for name in DOCUMENTED]
    return "\n\n".join(text[:5000] for text in texts)


def _data() -> str:
    """Tables by commas and tabs, and JSON."""
    symbols = sorted(html.entities.name2codepoint.items())
    table = "\n".join(("name,code,hexadecimal", *(f"{name},{code},{code:#06x}" for name, code in symbols[::4])))
    types = json.dumps([{"suffix": key, "type": value} for key, value in sorted(mimetypes.types_map.items())[::5]])
    readings = "\n".join(
        f"2026-03-{day:02}\t{(day * 37) % 29 - 6}.{day % 7} °C\t{990 + (day * 11) % 40} hPa" for day in range(1, 29)
    )
    return "\n\n".join((table, types, readings))


def _letters() -> str:
    """E-mail with headers: who asks is told what the documentation says."""
    names = ("Ada", "Bo", "Chen", "Dara", "Eli", "Fatima")
    letters = []
    for number, module in enumerate(("calendar", "shutil", "zipfile", "csv", "sched", "queue")):
        letter = EmailMessage()
        letter["From"] = f"{names[number]} <{names[number].lower()}@example.org>"
        letter["To"] = "team@example.org"
        letter["Date"] = f"Tue, {number + 10} Mar 2026 09:{number}5:00 +0100"
        letter["Subject"] = f"Re: a question about {module}"
        said = pydoc.plaintext.document(importlib.import_module(module))[300:2000]
        letter.set_content(
            f"Hello all,\n\nthank you for your note of last week. I looked it up for you; this is what I found:\n\n{said}\n\n"
            f"Shall we talk about it on Thursday, after lunch?\n\nBest wishes,\n{names[number]}\n"
        )
        letters.append(letter.as_string())
    return "\n\n".join(letters)


def _chats(chat: Chat) -> str:
    turns = list(HOUSEHOLD_CHAT)
    for function in (
        random.choices,
        random.gauss,
        textwrap.wrap,
        textwrap.shorten,
        os.walk,
        os.replace,
        shutil.copytree,
    ):
        turns.append((f"What does {function.__name__} do in Python?", pydoc.getdoc(function)))
    return "".join(
        chat([{"role": "user", "content": asked}, {"role": "assistant", "content": said}]) for asked, said in turns
    )
