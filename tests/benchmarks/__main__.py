"""`python -m tests.benchmarks [name …] [--rounds N] [--threads N] [--json FILE]`: run them, print a table."""

import argparse
import datetime
import importlib
import json
import os
import pkgutil
import platform
import sys
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from tests.benchmarks import measure
from tests.benchmarks.measure import Row, Timing

PACKAGES = "torch torchvision timm captum grad-cam torchcam torch-lucent zennit-crp numpy".split()


def names() -> list[str]:
    """The benchmarks that there are: one module `bench_<name>` each, with a function `rows()`."""
    found = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted(m.name.removeprefix("bench_") for m in found if m.name.startswith("bench_"))


def machine() -> dict[str, object]:
    """What the numbers depend on beside the code: processor, cores, threads, GPU, versions, load, date."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "rounds": measure.rounds,
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
        fields = {key.strip(): value.strip() for key, value in fields.items()}
        where = f"family {fields['cpu family']}, model {fields['model']}"
        instructions = [name for name in ("avx2", "avx512f", "amx_tile") if name in fields["flags"].split()]
        return f"{fields['model name']} ({where}; {', '.join(instructions)})"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def table(rows: Iterable[Row]) -> str:
    """The rows as text, one line each under a heading."""
    heads = (
        "kernel",
        "case",
        "beside",
        "ours",
        "theirs",
        "ratio",
        "CPU ratio",
        "target",
        "met",
        "MiB",
        "note",
    )
    lines = [heads] + [
        (
            row.kernel,
            row.case,
            row.beside or "–",
            _time(row.ours),
            "–" if row.theirs is None else _time(row.theirs),
            f"{row.value:,.3g} {row.unit}" if row.value < 100 else f"{row.value:,.0f} {row.unit}",
            "–" if row.cpu is None else f"{row.cpu:.3g}",
            f"≤ {row.at_most:g}" if row.at_most is not None else _least(row.at_least),
            {True: "yes", False: "NO", None: "–"}[row.met],
            _memory(row),
            row.note,
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _least(limit: float | None) -> str:
    return "–" if limit is None else f"≥ {limit:g}"


def _memory(row: Row) -> str:
    """Peaks of our way and of the other, in MiB."""
    taken = [t.memory for t in (row.ours, row.theirs) if t is not None]
    return " / ".join("–" if m is None else f"{m / 2**20:.0f}" for m in taken)


def _time(t: Timing) -> str:
    scale, unit = (1, "s") if t.wall >= 0.9995 else (1000, "ms")  # not 1e+03 ms
    return f"{t.wall * scale:.3g} ({t.low * scale:.3g} to {t.high * scale:.3g}) {unit}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Run benchmarks and print what was measured: median wall time (quartiles) of our way and "
        "of what it stands beside, and the median ratio over the rounds, in wall and in CPU time; "
        "MiB: memory at the peak of our way / of the other, beyond what was held before.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"which: {', '.join(names())}; all by default"
    )
    parser.add_argument(
        "--rounds", type=int, default=measure.rounds, help="runs of each way, at least (%(default)s)"
    )
    parser.add_argument("--threads", type=int, help="threads of torch on the CPU (its own default)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(names()))
    if unknown:
        parser.error(f"no benchmark is called {unknown[0]!r}; there are {', '.join(names())}")
    if options.rounds < 1 or (options.threads is not None and options.threads < 1):
        parser.error("--rounds and --threads: expected at least 1")
    measure.rounds = options.rounds
    if options.threads is not None:
        torch.set_num_threads(options.threads)

    here, rows = machine(), []
    for key, value in here.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        print(f"{key}: {text}")
    status = 0
    try:
        for name in options.names or names():
            for row in importlib.import_module(f"tests.benchmarks.bench_{name}").rows():
                rows.append(row)
                print(
                    f"… {row.kernel}, {row.case}, {row.beside or 'alone'}: {row.value:.3g} {row.unit}",
                    file=sys.stderr,
                )
    except KeyboardInterrupt:  # what took half an hour is not to be lost
        print("Interrupted. What was measured until then:", file=sys.stderr)
        status = 130
    print()
    print(table(rows))
    if options.json is not None:
        report = {"machine": here, "rows": [{**asdict(row), "met": row.met} for row in rows]}
        options.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
