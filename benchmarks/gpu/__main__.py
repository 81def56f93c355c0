"""What a GPU says about this package, in nine minutes: is it right, is it fast, does it fit.

    python benchmarks/gpu [--minutes 9] [--out runs/gpu] [--only NAME ...] [--kit DIR]
    python benchmarks/gpu --rehearse            everything in small on a CPU, to try this program and not the machine

Correctness first, then speed against every peer by order of worth, then memory against its formula (`parts.py`). Each
part is a process with a time limit of its own: one that crashes or hangs loses itself alone. After each, `results.json`
and `results.html` are written anew, with the goals beside what was found, so that a run that is cut off keeps what it
has; what the processes print lies beside them as it comes. Exit status 1: some part did not pass.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from goals import goals
from page import page
from parts import Part, parts
from tables import tables_of

from neo_lightning.data.files import replacing

ROOT = Path(__file__).resolve().parents[2]
LEAST_SECONDS = 5.0
"""With less time left no part is begun."""
TAIL = 40
"""Lines of a part's output that the results keep."""


def run_part(part: Part, seconds: float, log: Path, environment: dict[str, str]) -> dict[str, Any]:
    """One part in a process group of its own; whatever becomes of it, what it printed is read."""
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *part.command],
            cwd=ROOT,
            env=environment | part.environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(seconds)
            status = "passed" if code == 0 else f"ended by {signal.Signals(-code).name}" if code < 0 else "failed"
        except subprocess.TimeoutExpired:
            status = f"not done in {seconds:.0f} s"
        finally:  # its children too, and where this program is interrupted
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    printed = log.read_text(encoding="utf-8", errors="replace")
    return {
        "status": status,
        "seconds": round(time.monotonic() - began, 1),
        "tables": tables_of(printed),
        "printed": printed.splitlines()[-TAIL:],
    }


def device() -> dict[str, Any]:
    """What the numbers are measured on. In a process of its own, as this one must not hold memory of the GPU."""
    script = (
        "import json, sys, torch; sys.path.insert(0, 'benchmarks'); from timing import place; "
        "gpu = torch.cuda.is_available(); free = torch.cuda.mem_get_info() if gpu else None; "
        "print(json.dumps({'place': place(), 'cuda': gpu, 'memory_gib': free and free[1] / 2**30, "
        "'free_gib': free and free[0] / 2**30}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="parts that do not fit any more are left out")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu", help="folder of the results")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these parts; `--only list` shows all")
    parser.add_argument("--kit", type=Path, metavar="DIR", help="the authors' kit as a peer, see authors_kit.py")
    parser.add_argument("--rehearse", action="store_true", help="in small, on the CPU, kernels in Triton's interpreter")
    args = parser.parse_args()
    chosen = parts(rehearse=args.rehearse, kit=args.kit)
    names = [part.name for part in chosen]
    if args.only == ["list"]:
        print("\n".join(f"{part.name:<12} {part.seconds:4.0f} s  {part.claim}" for part in chosen))
        return 0
    if unknown := sorted(set(args.only or ()) - set(names)):
        parser.error(f"--only: there is no part {unknown[0]!r}; there are: {', '.join(names)}")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "benchmarks")))}
    if args.rehearse:
        os.environ["CUDA_VISIBLE_DEVICES"] = environment["CUDA_VISIBLE_DEVICES"] = ""
    found: dict[str, Any] = {"rehearsed": args.rehearse, "begun": time.strftime("%Y-%m-%d %H:%M:%S"), **device()}
    if not found["cuda"] and not args.rehearse:
        parser.error("torch sees no CUDA device; --rehearse tries everything in small on the CPU")
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    found["parts"] = []

    def write() -> None:
        found["goals"] = goals(found["parts"])
        for name, text in (("results.json", json.dumps(found, indent=1) + "\n"), ("results.html", page(found))):
            with replacing(args.out / name) as copy:
                copy.write_text(text, encoding="utf-8")

    for part in chosen:
        about = {"name": part.name, "claim": part.claim, "limit_s": part.seconds}
        left = end - time.monotonic()
        if args.only and part.name not in args.only:
            continue
        if left < LEAST_SECONDS:
            result: dict[str, Any] = {"status": "no time left", "seconds": 0.0, "tables": [], "printed": []}
        else:
            print(f"{part.name:<12} {part.claim} ...", flush=True)
            result = run_part(part, min(part.seconds, left), args.out / f"{part.name}.txt", environment)
        found["parts"].append(about | result)
        write()
        print(f"{part.name:<12} {result['status']}, {result['seconds']:.0f} s", flush=True)
        if result["status"] != "passed":
            print("\n".join(f"    {line}" for line in result["printed"][-12:]), flush=True)
    print(f"\n{args.out / 'results.html'}: everything, with the goals beside it; results.json holds the same")
    return 0 if all(part["status"] == "passed" for part in found["parts"]) else 1


if __name__ == "__main__":
    sys.exit(main())
