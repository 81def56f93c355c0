"""Mutation run: break the sources one place at a time, and see whether the nearest tests notice. Outside CI.

    python tests/mutate.py training --number 25          a sample of the room's mutants (the same for the same --seed)
    python tests/mutate.py training --at neo_lightning/training/step.py:115      all mutants of a line
    python tests/mutate.py image --swap neo_lightning/data/media/png.py 'old' 'new'     a mistake of one's own

A mutant has one operator, comparison, constant, condition, call or statement changed. The room's fast tests run once as
it is, which tells the time and the lines of each. Libraries are imported once; each mutant is a forked process that
imports the package with one module's source changed in memory, and runs the tests that pass its line, the quickest
first, up to the first failure. What survives is printed: a test is missing there, or the change changes nothing.
docs/testing.md keeps the scores.
"""

from __future__ import annotations

import argparse
import ast
import copy
import ctypes
import importlib
import importlib.machinery
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

ROOMS: dict[str, tuple[list[str], list[str]]] = {
    "training": (
        ["training/*.py"],
        [
            f"training/test_{name}.py"
            for name in ("adamw", "muon", "step", "stages", "step_cost", "parallel", "callbacks", "outlook")
        ]
        + [f"training/test_{name}.py" for name in ("restart", "memory", "state_files", "lr_scale", "heap", "ranks")]
        + ["cli/test_outlook.py"],
    ),
    "model": (
        ["model/*.py"],
        ["model", "checkpoint/test_qwen3.py", "answering/test_engine.py", "training/test_step_cost.py"],
    ),
    "ops": (
        ["ops/*.py", "ops/*/__init__.py", "ops/*/eager.py", "ops/*/reference.py", "ops/*/tiled.py", "ops/*/cached.py"]
        + ["ops/*/chunked.py"],
        [f"ops/test_{name}.py" for name in ("interval_attention", "joint_linear", "linear_cross_entropy", "precision")]
        + [f"ops/test_{name}.py" for name in ("qk_norm_rope", "rms_norm", "swiglu", "fp8", "operators")],
    ),
    "plan": (["data/plan/*.py"], [f"data/test_{name}.py" for name in ("packing", "plan", "ahead")]),
    "text": (
        [f"data/text/{name}.py" for name in ("serialize", "lengths", "conversation", "answers")],
        [f"data/test_{name}.py" for name in ("serialize", "lengths", "conversation", "records")],
    ),
    "image": (
        [f"data/media/{name}.py" for name in ("image", "png", "still")],
        ["data/test_image.py", "data/test_shown.py", "faults/test_image_faults.py", "faults/test_one_sample.py"]
        + ["report/test_pictures.py"],
    ),
    "video": (
        ["data/media/video/*.py"],
        ["data/test_video.py", "data/test_shown.py", "faults/test_clip_faults.py", "faults/test_one_sample.py"],
    ),
}
"""Room -> sources below neo_lightning/, and the tests below tests/ that stand nearest to them."""

_CHILD_SUBREAPER = 36
SECONDS = 90
"""Of tests for one mutant, as long as they take while their lines are noted; slower ones are passed over."""

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
    lines: range
    """Those of the changed node as it was."""

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
            what = f"{ast.unparse(node).split(chr(10))[0]}  ->  {shown}"
            last = (node.test if isinstance(node, ast.If) else node).end_lineno
            found.append(Mutant(path, node.lineno, what, source, range(node.lineno, last + 1)))
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


class Watch:
    """A plugin of pytest: which tests pass which lines of some files, and how long each takes."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = {str(path) for path in paths}
        self.tests: dict[tuple[str, int], set[str]] = {}
        self.seconds: dict[str, float] = {}
        self.forking: set[str] = set()
        """Tests whose runs are processes of their own (`tests/forks.py`): any line may be passed there."""
        self.owner = ""

    def _trace(self, frame: Any, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in self.paths:
            return None
        if event == "line" and self.owner:
            self.tests.setdefault((frame.f_code.co_filename, frame.f_lineno), set()).add(self.owner)
        return self._trace

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.owner, began = item.nodeid, time.monotonic()
        if "forks" in getattr(item, "fixturenames", ()):
            self.forking.add(item.nodeid)
        threading.settrace(self._trace)
        sys.settrace(self._trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            self.seconds[item.nodeid] = time.monotonic() - began

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[None]:
        """What several tests share counts for all of their file."""
        before = self.owner
        if fixturedef.scope != "function":
            self.owner = before.split("::")[0]
        try:
            return (yield)
        finally:
            self.owner = before

    def of(self, mutant: Mutant) -> list[str]:
        """The quickest tests that pass a mutant's lines; where none does, as when a module is imported, of all."""
        owners = set().union(*(self.tests.get((str(mutant.path), line), ()) for line in mutant.lines))
        near = owners | self.forking
        found = [t for t in self.seconds if not owners or t in near or t.split("::")[0] in near]
        found.sort(key=self.seconds.__getitem__)
        spent, chosen = 0.0, []
        for test in found:
            spent += self.seconds[test]
            if chosen and spent > SECONDS:
                break
            chosen.append(test)
        return chosen


class Order:
    """A plugin of pytest: these tests alone, in this order."""

    def __init__(self, tests: list[str]) -> None:
        self.place = {test: i for i, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.place), key=lambda i: self.place[i.nodeid])


def passes(tests: list[str], seconds: float, mutant: Mutant | None = None, watch: Watch | None = None) -> bool:
    """Whether the tests pass in a forked process; too slow counts as failed."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(told)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        status = 1
        try:
            if mutant is not None:
                replace(mutant.path, mutant.source)
            files = list(dict.fromkeys(test.split("::")[0] for test in tests))
            plugins = [watch or Order(tests)]
            options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "--durations=0"]
            status = int(pytest.main([*options, *files], plugins=plugins))
            if watch is not None:
                places = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
                libraries = [name for name, place in places.items() if place and "site-packages" in place]
                with open(tell, "wb") as pipe:
                    pickle.dump((watch.tests, watch.seconds, watch.forking, libraries), pipe)
        finally:
            os._exit(status)
    os.close(tell)
    if watch is not None:
        with open(told, "rb", closefd=False) as pipe, suppress(EOFError):
            watch.tests, watch.seconds, watch.forking, libraries = pickle.load(pipe)
            for name in libraries:
                with suppress(Exception):
                    importlib.import_module(name)
                assert "neo_lightning" not in sys.modules, f"{name} imports what is to be mutated"
    os.close(told)
    stop = time.monotonic() + seconds
    try:
        while time.monotonic() < stop:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return status == 0
            time.sleep(0.02)
        return False
    finally:  # what it has started too, which is this process's where its parent has gone
        while left := Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            for pid in left:
                os.kill(int(pid), signal.SIGKILL)
            os.wait()


_SERVER = """import runpy
from pathlib import Path
from tests.mutate import replace
replace(Path({path!r}), {source!r})
runpy.run_module("tests.forks", run_name="__main__", alter_sys=True)
"""


def replace(path: Path, source: str) -> None:
    """From now on a file has another source, imported or run as a program: here (the decoder of clips is one), and in
    what `tests/forks.py` starts."""
    as_it_is = importlib.machinery.SourceFileLoader.get_code

    def get_code(loader: importlib.machinery.SourceFileLoader, name: str) -> object:
        if Path(loader.path) != path:
            return as_it_is(loader, name)
        return compile(source, loader.path, "exec", dont_inherit=True)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign, assignment]
    start = subprocess.Popen.__init__

    def run(process: Any, args: Any, *more: Any, **options: Any) -> None:
        if isinstance(args, list) and str(path) in args:
            at = args.index(str(path))
            args = [*args[:at], "-c", source, *args[at + 1 :]]
        elif isinstance(args, list) and args[1:3] == ["-m", "tests.forks"]:
            args = [args[0], "-c", _SERVER.format(path=str(path), source=source), *args[3:]]
        start(process, args, *more, **options)

    subprocess.Popen.__init__ = run  # type: ignore[method-assign]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("room", choices=ROOMS)
    parser.add_argument("--number", type=int, default=25, help="of mutants, chosen at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at", metavar="FILE:LINE", help="all mutants of this line instead")
    parser.add_argument("--swap", nargs=3, metavar=("FILE", "OLD", "NEW"), help="this change instead")
    parser.add_argument("--tests", nargs="+", help="other tests than the room's")
    args = parser.parse_args()
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    ctypes.CDLL(None).prctl(_CHILD_SUBREAPER, 1, 0, 0, 0)
    sys.path[:0] = [str(ROOT)]
    import lightning.pytorch  # noqa: F401  takes long to import
    from hypothesis import Phase, settings

    # a failure is enough: making its example small takes a minute
    settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate], database=None, derandomize=True)
    settings.load_profile("mutants")

    globs, tests = ROOMS[args.room]
    tests = args.tests or [f"tests/{name}" for name in tests]
    files = sorted({path for glob in globs for path in (ROOT / "neo_lightning").glob(glob)})
    every = [mutant for path in files for mutant in mutants(path)]
    if args.swap:
        path, source = ROOT / args.swap[0], (ROOT / args.swap[0]).read_text(encoding="utf-8")
        before, there, after = source.partition(args.swap[1])
        if not there or args.swap[1] in after:
            parser.error("the old text must stand in the file once")
        first = before.count("\n") + 1
        lines = range(first, first + 1 + there.count("\n"))
        chosen = [Mutant(path, first, " -> ".join(args.swap[1:]), before + args.swap[2] + after, lines)]
    elif args.at:
        chosen = [mutant for mutant in every if args.at == f"{mutant.path.relative_to(ROOT)}:{mutant.line}"]
    else:
        chosen = random.Random(args.seed).sample(every, min(args.number, len(every)))
    watch = Watch([*files, *(mutant.path for mutant in chosen)])
    if not passes(tests, 900, watch=watch):
        print("the tests fail as it is", file=sys.stderr)
        return 1
    survivors = []
    for mutant in chosen:
        nearest = watch.of(mutant)
        began = time.monotonic()
        survived = passes(nearest, 3 * sum(map(watch.seconds.__getitem__, nearest)) + 20, mutant)
        survivors += [mutant] * survived
        took = f"{time.monotonic() - began:.0f} s, {len(nearest)} tests"
        print(f"{'SURVIVED' if survived else 'killed  '}  {mutant}  ({took})", flush=True)
    print(f"{args.room}: {len(chosen) - len(survivors)} of {len(chosen)} killed ({len(every)} in all)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
