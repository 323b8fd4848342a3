"""The Python API: asks an edge node from a program.

    with splitvlm.connect("127.0.0.1:7443") as vlm:
        answer = vlm.ask("cells.png", "How many cells are infected?")
        for piece in answer:
            print(piece, end="")
        print(answer.report.plan, answer.report.bytes_sent)

        chat = [
            {"role": "system", "content": "Answer with a number."},
            {"role": "user", "content": [Path("left.png"), Path("right.png"), "How many more cells are right?"]},
        ]
        print(vlm.chat(chat, temperature=0.5, seed=7).read())

`splitvlm.connect_async` is the same for programs with an event loop: `async with`, `async for`, `await answer.read()`.
Images are paths, the bytes of files, PIL images, or numpy arrays (height, width, 3 channels RGB; uint8).
"""

from splitvlm.client.answers import Answer, AsyncAnswer
from splitvlm.client.connection import AsyncConnection, Connection, connect, connect_async
from splitvlm.client.messages import ChatMessage, ImageLike
from splitvlm.client.options import Options
from splitvlm.client.report import Report

__all__ = [
    "Answer",
    "AsyncAnswer",
    "AsyncConnection",
    "ChatMessage",
    "Connection",
    "ImageLike",
    "Options",
    "Report",
    "connect",
    "connect_async",
]
