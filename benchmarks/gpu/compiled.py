"""Every kernel at the released models' sizes, compiled for sm_90: shared memory, spills and atomics. Needs no GPU.

    python benchmarks/gpu/compiled.py [--only CASE ...]

The limit is the device's own where there is one, else an H100's 227 KB. Exit status 1 where a kernel does not keep to
it, spills, or adds to memory atomically, which would make sums depend on the order in which programs run.
"""

from __future__ import annotations

import argparse
import sys

import torch
from timing import DEVICE, place, print_table

from tests.ops.sm90 import compile_case
from tests.ops.test_sm90 import CASES

LIMIT = 227 * 1024


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES, metavar="CASE")
    cases = parser.parse_args().only
    gpu = DEVICE.type == "cuda"
    limit = torch.cuda.get_device_properties(DEVICE).shared_memory_per_block_optin if gpu else LIMIT
    rows, wrong = [], False
    for case in cases:
        found = compile_case(case)
        good = found["shared"] <= limit and not (found["stack"] or found["spills"] or found["atomics"])
        wrong |= not good
        numbers = (found["shared"], found["registers"], found["spills"], found["atomics"])
        rows.append((case, *map(str, numbers), "yes" if good else "NO"))
    head = ("kernel", "shared bytes", "registers", "spills", "atomics", "as it must be")
    print_table(f"kernels for sm_90, at most {limit} bytes of shared memory; {place()}", head, rows)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
