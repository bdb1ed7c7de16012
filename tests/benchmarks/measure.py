"""Timing ways of doing the same thing beside each other: in one process, interleaved, medians and spread."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

# rounds in which every way runs once, `--rounds` sets it; quick cases get more, until they have run this
# long: single rounds of theirs are as far apart as what is looked for
rounds = 7
SECONDS, MOST = 20.0, 51


@dataclass(frozen=True)
class Timing:
    """Seconds of one way: median wall time, its lower and upper quartile, median CPU time of all threads.

    memory: bytes at its peak beyond what was held before, as `peak` gives them; None if not known.
    """

    wall: float
    low: float
    high: float
    cpu: float
    memory: int | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table: our way, and what it stands beside.

    kernel, case: what was run, and on what. beside: the other way's name, "" if there is none.
    value: for a cost ("ours / theirs") or a speed-up ("theirs / ours") the median over the rounds of the
    ratio of wall times; for a rate the number itself. cpu: the same ratio in CPU time, or None.
    unit: what `value` is. at_most, at_least: the target, if there is one. note: anything else to know.
    """

    kernel: str
    case: str
    beside: str
    ours: Timing
    theirs: Timing | None
    value: float
    unit: str
    cpu: float | None = None
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none."""
        if self.at_most is None and self.at_least is None:
            return None
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of one call, work queued on a GPU included."""
    _synchronise()
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    _synchronise()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak(run: Callable[[], object]) -> int | None:
    """Bytes that one call takes at its peak beyond what was held before it.

    On the GPU where there is one, else of the process, from Linux's own count of its pages; None on other
    systems. That count says more than the call took in a process that keeps what it has freed, as after
    `lecture7_utils.start`.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        # what was freed but kept by the allocator would hide as much of the peak
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _pages("VmRSS")
        run()
        return max(0, _pages("VmHWM") - before)
    except (OSError, AttributeError, KeyError):
        return None


def _pages(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields[name].split()[0]) * 1024


def compare(
    kernel: str,
    case: str,
    ours: Callable[[], object],
    others: Mapping[str, Callable[[], object]],
    *,
    at_most: Mapping[str, float] | None = None,
    at_least: Mapping[str, float] | None = None,
    note: str = "",
) -> Iterator[Row]:
    """Run our way and the others in turn, `rounds` times or more (`SECONDS`, at most `MOST` rounds).

    Two runs of each do not count: the first makes what is made once, the second is measured for its memory.

    Yields one row for each of the others: its cost ratio (ours / theirs) where `at_most` names it, else
    our speed-up (theirs / ours).
    """
    at_most, at_least = at_most or {}, at_least or {}
    ways = {"": ours, **others}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for run in ways.values():
        run()
    memory = {name: peak(run) for name, run in ways.items()}
    gc.collect()
    gc.disable()
    try:
        turn, begun = 0, time.perf_counter()
        while turn < rounds or (turn < MOST and time.perf_counter() - begun < SECONDS):
            # forwards and backwards in turn, so that none always comes after the same one
            for name in list(ways)[:: 1 if turn % 2 else -1]:
                taken[name].append(timed(ways[name]))
            turn += 1
    finally:
        gc.enable()
    for name in others:
        cost = name in at_most
        pairs = list(zip(taken[""], taken[name], strict=True))
        wall, cpu = (
            statistics.median(o[i] / t[i] if cost else t[i] / o[i] for o, t in pairs) for i in (0, 1)
        )
        yield Row(
            kernel,
            case,
            name,
            _summary(taken[""], memory[""]),
            _summary(taken[name], memory[name]),
            wall,
            "× the time" if cost else "× faster",
            cpu,
            at_most.get(name),
            at_least.get(name),
            note,
        )


def rate(
    kernel: str,
    case: str,
    run: Callable[[], object],
    count: int,
    unit: str,
    *,
    at_least: float | None = None,
    note: str = "",
) -> Iterator[Row]:
    """How many things a second: `run` makes `count` of them; one row, by the median of `rounds` runs."""
    run()
    memory = peak(run)
    taken = [timed(run) for _ in range(rounds)]
    ours = _summary(taken, memory)
    yield Row(kernel, case, "", ours, None, count / ours.wall, unit, at_least=at_least, note=note)


def _summary(taken: list[tuple[float, float]], memory: int | None) -> Timing:
    walls = sorted(wall for wall, _ in taken)
    low, _, high = statistics.quantiles(walls, n=4, method="inclusive") if len(walls) > 1 else walls * 3
    return Timing(statistics.median(walls), low, high, statistics.median(cpu for _, cpu in taken), memory)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
