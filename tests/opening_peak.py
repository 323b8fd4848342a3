"""Run as a program: opens the picture files named and prints, for each, the bound and the measured peak of memory in bytes.

The kernel's high-water mark of this process is reset before each file (proc(5), clear_refs).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from splitvlm.model.pictures import inspect_picture, read_picture


def resident_bytes(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def main(paths: list[str]) -> None:
    read_picture(Path(paths[0]).read_bytes())  # what the first picture loads stays: plugins, tables
    for path in paths[1:]:
        data = Path(path).read_bytes()
        bound = inspect_picture(data).decoded_bytes
        Path("/proc/self/clear_refs").write_text("5")
        before = resident_bytes("VmRSS")
        read_picture(data)
        print(json.dumps([path, bound, resident_bytes("VmHWM") - before]))


if __name__ == "__main__":
    main(sys.argv[1:])
