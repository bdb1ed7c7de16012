"""The versions that Colab's runtime has, from `runtime.txt` beside this file."""

import re
from pathlib import Path

LIST = Path(__file__).with_name("runtime.txt")


def published(path: Path = LIST) -> dict[str, str]:
    """Name and version of each package of the list, "python" among them.

    Raises `ValueError` naming the line that is neither a comment nor `name==version`, or a name given twice.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        entry = re.fullmatch(r"([a-z0-9][a-z0-9-]*)==(\d[\w.]*)", line)
        if not entry:
            raise ValueError(f"{path.name}, line {number}: expected name==version, got {line!r}")
        if entry[1] in found:
            raise ValueError(f"{path.name}, line {number}: expected each name once, got {entry[1]} again")
        found[entry[1]] = entry[2]
    return found
