"""Mutation run: break the sources one place at a time, and see whether the nearest tests notice. Outside CI.

    python tests/mutate.py training --number 25          a sample of the room's mutants (the same for the same --seed)
    python tests/mutate.py training --at neo_lightning/training/step.py:115      all mutants of a line

A mutant has one operator, comparison, constant, condition, call or statement changed. Libraries are imported once; each
mutant is a forked process that imports the package with one module's source changed in memory, and runs the room's fast
tests up to the first failure. What survives is printed: a test is missing there, or the change changes nothing.
docs/testing.md keeps the scores.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.machinery
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

ROOMS: dict[str, tuple[list[str], list[str]]] = {
    "training": (
        ["training/*.py"],
        [f"training/test_{name}.py" for name in ("adamw", "step", "stages", "step_cost", "parallel", "callbacks")]
        + ["training/test_restart.py", "training/test_memory.py", "cli/test_outlook.py"],
    ),
    "model": (["model/*.py"], ["model"]),
    "ops": (
        ["ops/*.py", "ops/*/__init__.py", "ops/*/eager.py", "ops/*/reference.py", "ops/*/tiled.py", "ops/*/cached.py"]
        + ["ops/*/chunked.py"],
        [f"ops/test_{name}.py" for name in ("interval_attention", "joint_linear", "linear_cross_entropy", "precision")]
        + [f"ops/test_{name}.py" for name in ("qk_norm_rope", "rms_norm", "swiglu", "fp8")],
    ),
    "plan": (["data/plan/*.py"], ["data/test_packing.py", "data/test_plan.py", "data/test_datamodule.py"]),
    "serialize": (["data/text/serialize.py"], ["data/test_serialize.py", "data/test_lengths.py"]),
    "image": (["data/media/image.py"], ["data/test_image.py", "faults/test_image_faults.py"]),
}
"""Room -> sources below neo_lightning/, and the tests below tests/ that stand nearest to them, the quickest first."""

_OTHER: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
_OTHER_NAME = {"ceil": "floor", "floor": "ceil", "min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    path: Path
    line: int
    what: str
    source: str
    """The whole file, changed."""

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.what}"


def changes(node: ast.AST) -> Iterator[ast.AST | None]:
    """Other nodes that may stand in a node's place; None removes it."""
    match node:
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op) if type(op) in _OTHER:
            yield _with(node, op=_OTHER[type(op)]())
        case ast.Compare(ops=[op]) if type(op) in _OTHER:
            yield _with(node, ops=[_OTHER[type(op)]()])
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(value * 2 + 1)
        case ast.Call(func=ast.Name(id=name)) if name in _OTHER_NAME:
            yield _with(node, func=ast.Name(_OTHER_NAME[name], ast.Load()))
        case ast.Call(func=ast.Attribute(attr=name)) if name in _OTHER_NAME:
            yield _with(node, func=_with(node.func, attr=_OTHER_NAME[name]))
        case ast.Call(args=[ast.Starred(), *_] | [_, ast.Starred(), *_]):
            pass
        case ast.Call(args=[first, second, *rest]):
            yield _with(node, args=[second, first, *rest])
        case ast.If(test=test) | ast.IfExp(test=test):
            yield _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield None


def _with(node: ast.AST, **fields: object) -> ast.AST:
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def mutants(path: Path) -> list[Mutant]:
    """All changes of a file but those of what it says: documentation, annotations, errors."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for parent, field, index in list(_places(tree)):
        holder = getattr(parent, field)
        node = holder if index is None else holder[index]
        for other in changes(node):
            shown = "removed" if other is None else ast.unparse(other).split("\n")[0]
            _put(parent, field, index, ast.Pass() if other is None else other)
            source = ast.unparse(ast.fix_missing_locations(tree))
            _put(parent, field, index, node)
            found.append(Mutant(path, node.lineno, f"{ast.unparse(node).split(chr(10))[0]}  ->  {shown}", source))
    return found


def _places(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params") or isinstance(node, ast.JoinedStr):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST) and not isinstance(child, (ast.Raise, ast.ImportFrom, ast.Assert)):
                if isinstance(child, (ast.stmt, ast.expr)):
                    yield node, field, index
                yield from _places(child)


def _put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def passes(tests: list[str], mutant: Mutant | None, seconds: float) -> bool:
    """Whether the tests pass in a forked process; too slow counts as failed."""
    child = os.fork()
    if child == 0:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        status = 1
        try:
            if mutant is not None:
                _replace(mutant)
            import pytest

            status = int(pytest.main(["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]))
        finally:
            os._exit(status)
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _replace(mutant: Mutant) -> None:
    """From now on the mutant's file has another source; its compiled form on the disk is passed over."""
    as_it_is = importlib.machinery.SourceFileLoader.get_code

    def get_code(loader: importlib.machinery.SourceFileLoader, name: str) -> object:
        if Path(loader.path) != mutant.path:
            return as_it_is(loader, name)
        return compile(mutant.source, loader.path, "exec", dont_inherit=True)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign, assignment]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("room", choices=ROOMS)
    parser.add_argument("--number", type=int, default=25, help="of mutants, chosen at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at", metavar="FILE:LINE", help="all mutants of this line instead")
    parser.add_argument("--tests", nargs="+", help="other tests than the room's")
    args = parser.parse_args()
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT)]
    import lightning.pytorch  # noqa: F401  libraries that take long to import, and not the package
    import pytest  # noqa: F401

    globs, tests = ROOMS[args.room]
    tests = args.tests or [str(ROOT / "tests" / name) for name in tests]
    files = sorted({path for glob in globs for path in (ROOT / "neo_lightning").glob(glob)})
    every = [mutant for path in files for mutant in mutants(path)]
    if args.at:
        chosen = [mutant for mutant in every if args.at == f"{mutant.path.relative_to(ROOT)}:{mutant.line}"]
    else:
        chosen = random.Random(args.seed).sample(every, min(args.number, len(every)))
    began = time.monotonic()
    if not passes(tests, None, 600):
        print("the tests fail as it is", file=sys.stderr)
        return 1
    limit = 3 * (time.monotonic() - began) + 10
    survivors = []
    for mutant in chosen:
        survived = passes(tests, mutant, limit)
        survivors += [mutant] * survived
        print(f"{'SURVIVED' if survived else 'killed  '}  {mutant}", flush=True)
    print(f"{args.room}: {len(chosen) - len(survivors)} of {len(chosen)} killed ({len(every)} in all)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
