"""What `import lecture7_utils` costs over torch and torchvision, each time in a Python of its own."""

import statistics
import subprocess
import sys
from collections.abc import Iterator

from tests.benchmarks import measure
from tests.benchmarks.measure import Row, Timing

BARE = "import torch, torchvision"
# a name of each floor, as the first cell of a notebook uses them
CASES = {
    "import alone": "import lecture7_utils",
    "with the names of all kernels": "import lecture7_utils as l7; [getattr(l7, n) for n, home in "
    "l7._HOME.items() if home.startswith('kernels')]",
}


def rows() -> Iterator[Row]:
    """≤ 0.3 s over torch's and torchvision's own."""
    for case, code in CASES.items():
        bare, ours = [], []
        for _ in range(measure.rounds + 1):
            bare.append(_seconds(BARE))
            ours.append(_seconds(f"{BARE}; {code}"))
        bare, ours = bare[1:], ours[1:]  # the first fills the system's file cache
        extra = [o[0] - b[0] for o, b in zip(ours, bare, strict=True)]
        yield Row(
            "import",
            case,
            "torch and torchvision",
            _timing(ours),
            _timing(bare),
            statistics.median(extra),
            "s more",
            at_most=0.3,
            note=f"CPU: {statistics.median(o[1] - b[1] for o, b in zip(ours, bare, strict=True)):.3f} s more",
        )


def _seconds(code: str) -> tuple[float, float]:
    """Wall and CPU seconds that a fresh Python takes for this, its own start left out."""
    program = f"import time; w, c = time.perf_counter(), time.process_time()\n{code}\n"
    program += "print(time.perf_counter() - w, time.process_time() - c)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    wall, cpu = map(float, said.stdout.split())
    return wall, cpu


def _timing(taken: list[tuple[float, float]]) -> Timing:
    walls = sorted(wall for wall, _ in taken)
    quarter = len(walls) // 4
    return Timing(
        statistics.median(walls), walls[quarter], walls[-1 - quarter], statistics.median(c for _, c in taken)
    )
