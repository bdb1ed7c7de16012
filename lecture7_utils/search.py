"""Search a folder of pictures: `python -m lecture7_utils.search FOLDER --layer NAME --out FILE`.

For each channel of a layer of a network, the pictures that excite it most. The result is a file for
`Ranking.load`. Runs on one process, or on several:

    torchrun --nproc-per-node 4 -m lecture7_utils.search FOLDER --layer NAME --out FILE

What is found so far is kept beside FILE (FILE.part) and a killed search goes on from there with --resume, on
any number of processes. Exit codes: 0, all pictures were searched; 3, done, but some could not be read (they
are listed); 130, stopped from outside; 2, wrong arguments; 1, anything else. torchrun itself exits with 1 for
any of them but 0.
"""

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from lecture7_utils.kernels.ranking import Ranking
from lecture7_utils.kernels.search import parts_of, top_activations
from lecture7_utils.shop.folder import Folder
from lecture7_utils.shop.models import load_model

DONE, FAILED, WRONG, SOME_UNREADABLE, STOPPED = 0, 1, 2, 3, 130


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m lecture7_utils.search",
        description=__doc__.partition("\n")[2].strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="a folder of pictures; folders below it count")
    parser.add_argument("--model", default="efficientnet_lite0", help="a name for load_model (%(default)s)")
    parser.add_argument(
        "--layer", action="append", required=True, metavar="NAME", help="a layer; may be given several times"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the result goes")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="pictures per channel (%(default)s)")
    parser.add_argument(
        "--batch-size",
        type=_batch_size,
        default="auto",
        metavar="N",
        help="pictures in one pass (%(default)s)",
    )
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that read pictures (%(default)s)"
    )
    parser.add_argument("--device", default="auto", help="'auto', 'cpu', 'cuda' … (%(default)s)")
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads of each process on the CPU; with as many in each, any number of processes gives "
        "bitwise the same",
    )
    parser.add_argument(
        "--sample", type=int, default=1024, metavar="N", help="random pictures for quantiles (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of that sample (%(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from FILE.part if it is there")
    parser.add_argument(
        "--save-every", type=float, default=60.0, metavar="SECONDS", help="write FILE.part (%(default)s)"
    )
    parser.add_argument("--quiet", action="store_true", help="no bar and no table")
    return parser.parse_args(given)


def _batch_size(text: str) -> int | str:
    return text if text == "auto" else int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _arguments(arguments)
    before = signal.signal(signal.SIGTERM, _as_interrupt)  # as a cluster stops a job
    grouped = int(os.environ.get("WORLD_SIZE", "1")) > 1
    try:
        if options.threads is not None:
            if options.threads < 1:
                raise ValueError(f"--threads: expected at least 1, got {options.threads}")
            torch.set_num_threads(options.threads)
        device = _device(options.device)
        if grouped:
            # a process may be done hours before the others
            dist.init_process_group(
                "nccl" if device.startswith("cuda") else "gloo", timeout=timedelta(days=7)
            )
        return _search(options, device)
    except (ValueError, TypeError, FileNotFoundError, ConnectionError) as error:
        print(f"python -m lecture7_utils.search: {error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print(f"Stopped. The same command with --resume goes on from {options.out}.part.", file=sys.stderr)
        return STOPPED
    except (OSError, RuntimeError) as error:
        print(f"python -m lecture7_utils.search: {type(error).__name__}: {error}", file=sys.stderr)
        return FAILED
    finally:
        signal.signal(signal.SIGTERM, before)
        if grouped and dist.is_initialized():
            dist.destroy_process_group()


def _as_interrupt(*_) -> None:
    raise KeyboardInterrupt


def _device(name: str) -> str:
    """The device of this process: of several on one machine each takes a GPU of its own."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if name in ("auto", "cuda") and torch.cuda.is_available():
        device = f"cuda:{local % torch.cuda.device_count()}"
        torch.cuda.set_device(device)
        return device
    return "cpu" if name == "auto" else name


def _search(options: argparse.Namespace, device: str) -> int:
    first = not dist.is_initialized() or dist.get_rank() == 0
    out = options.out
    part = out.with_name(f"{out.name}.part")
    if not out.parent.is_dir() or out.is_dir():
        raise ValueError(f"--out: expected a file in a folder that exists, got {str(out)!r}")
    if first and parts_of(part) and not options.resume:
        raise ValueError(
            f"--resume: expected, as {part.name} holds an unfinished search; remove that file to begin anew, "
            "got no --resume"
        )
    pictures = Folder(options.folder)
    net = load_model(options.model, device)
    # workers have no business on a GPU
    reader = net if device == "cpu" else load_model(options.model, "cpu")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "top_activations was interrupted")
        ranking = top_activations(
            net,
            options.layer,
            pictures,
            options.top,
            batch_size=options.batch_size,
            workers=options.workers,
            preprocess=reader.preprocess,
            names=pictures.names,
            data=pictures.path.resolve().name,
            sample=options.sample,
            seed=options.seed,
            resume=part,
            save_every=options.save_every,
            progress=not options.quiet,
        )
    if ranking is None:
        return DONE
    if ranking.count + len(ranking.skipped) < len(pictures):
        raise KeyboardInterrupt
    ranking.save(out)
    for file in parts_of(part):
        file.unlink()
    _report(ranking, options)
    return SOME_UNREADABLE if ranking.skipped else DONE


def _report(ranking: Ranking, options: argparse.Namespace) -> None:
    if not options.quiet:
        print(ranking)
        print()
    if ranking.skipped:
        print(f"{len(ranking.skipped)} of {ranking.searched.size} pictures could not be used:")
        for skipped in ranking.skipped:
            print(f"  {skipped.name}: {skipped.reason}")
    print(f"{ranking.count} pictures searched, the result is in {options.out}")


if __name__ == "__main__":
    sys.exit(main())
