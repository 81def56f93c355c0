"""`lightning run RECIPE`: a recipe to its end: preflight, stages, export, evaluation, report.

    RECIPE + overrides --NeoCLI--> objects --preflight--> fit (from the last committed checkpoint, if there is one)
      --> RUN/checkpoints/ --> RUN/export/ --> RUN/report.html

The same command goes on where the last one stopped, and does only what is missing: nothing but the run's folder says
how far it came. One process at a time owns the folder (`data.owner`).

A training ends before the last step of its stages for one of these reasons:

    a signal, trainer.max_time    saved; status 75, the same command goes on
    trainer.max_steps             saved; status 0, a larger max_steps (or none) goes on
    a user's EarlyStopping, or another callback that sets trainer.should_stop
                                  saved; the run is done (RUN/ended.json): export and evaluation follow
"""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .. import stopping
from ..exits import DONE, EVALUATION_FAILED, TRY_AGAIN, disk_full, table
from . import recipe as recipes
from .arguments import Arguments, parse
from .errors import UserError, describe, refusals, user_errors
from .notes import Ended, Finished, Times
from .stage_help import wants_stage_help

if TYPE_CHECKING:
    from .origin import Origin
    from .parser import NeoCLI

USAGE = """usage: lightning run RECIPE [--config MORE.yaml ...] [--key.path=value ...]

RECIPE is a file, or the name of a shipped one: {shipped}.

  --config MORE.yaml          laid over RECIPE; mappings merge, lists and mixtures are replaced, `null` removes a stage
  --stages.sft.lr=1e-5        any key of the recipe
  --trainer.callbacks+=my_callbacks.Hello --trainer.callbacks.greeting=Hi     your own class, from this folder
  --print_config              print the composed recipe and stop
  --from RUN/checkpoints/step-N      begin a new run there: behind step N if the recipe begins with the stages trained
                                     there, with weights and moments alone if it has others
  --accept-changes            go on with a recipe by which the steps done would have been others

A run resumes by itself from the last checkpoint in its folder (run.dir). SIGTERM, SIGUSR1 or Ctrl-C: it saves and ends
with status 75; a second Ctrl-C ends it at once. How it goes or ended: status.json there, and the exit status:

{table}

Keys of a stage: --stages.help; all: neo-lightning fit --help"""


def main(argv: list[str]) -> int:
    """Run a recipe; returns the exit status."""
    if wants_stage_help(argv):
        return 0
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE.format(shipped=", ".join(recipes.shipped("recipes")), table=table()))
        return 0
    arguments = parse(argv)
    with ExitStack() as until_the_end:
        with user_errors(f"cannot run {arguments.files[0]}"):
            from .parser import NeoCLI
            from .preflight import ask_store
            from .together import Start
            from .whole import newest_whole

            cli = NeoCLI(arguments)
            start = Start(cli.trainer)
            with start.together("own the folder"):
                until_the_end.enter_context(cli.ownership())
            with start.together("look at the folder"):
                run = Run(cli, arguments, command=shlex.join(["lightning", "run", *argv]))
            if run.checkpoint is not None and not run.complete:
                run.checkpoint = newest_whole(run.checkpoints, start)
            with start.together("prepare"):
                run.check_recipe(accepted=arguments.accepts_changes)
                if run.complete:
                    print(f"{run.folder}: this run is complete ({run.length}; report and export are there)")
                    return 0
                run.check_parts()
            if not run.trained():
                ask_store(start, cli.datamodule)
            with start.together("read the data"):
                run.read_data()
        return run.follow()


class Run:
    """One run: its folder, how far it has come, and what is left to do."""

    def __init__(self, cli: NeoCLI, arguments: Arguments, command: str) -> None:
        from ..checkpoint import commit
        from ..training.stages import total_steps

        self.cli, self.arguments, self.command = cli, arguments, command
        self.folder = Path(cli.settings.dir)
        self.saver = saver = cli.saver
        self.checkpoints = saver.folder_of(cli.trainer) if saver else self.folder / "checkpoints"
        self.total = total_steps(cli.stages)
        self.trying = bool(cli.trainer.fast_dev_run)  # type: ignore[attr-defined]
        self.checkpoint = None if self.trying else commit.latest(self.checkpoints)
        self.ended = Ended(self.folder / "ended.json")
        self.export_dir = _export_folder(cli.export, self.folder)
        self.finished = Finished(self.folder / "finished.json")
        self.times = Times(self.folder / "wall_seconds.json")
        self.outcome = DONE
        self.news = ""
        """What a run that goes on does otherwise than so far."""
        self.origin: Origin | None = None
        """Where a run without checkpoints of its own begins."""
        self.preparation = 0.0

    def check_recipe(self, *, accepted: bool) -> None:
        """Find where to begin; refuse, ask and say what another recipe than that of the steps done means.

        Raises:
            UserError: naming each difference, and the ways on.
        """
        from . import origin

        if self.checkpoint is None:
            self.origin = None if self.trying else origin.branched(self.cli, self.total)
        elif not self.trained():
            self.news = origin.goes_on(self.cli, self.checkpoint, self._done(), accepted=accepted)
        else:
            named = "${run.name}" in str(self.arguments.recipe["run"].get("dir"))
            origin.refuse_another(self.cli, self._done(), own="name=NAME" if named else "dir=FOLDER")

    @property
    def complete(self) -> bool:
        """Nothing is left to do."""
        return self.trained() and self._reported() and self._exported()

    def _exported(self) -> bool:
        return self.export_dir is None or self.finished.exported(self.export_dir, self._done())

    def _check_export(self) -> None:
        """Refuse to replace another run's model."""
        folder = self.export_dir
        if folder is None or folder == self.folder / "export" or self.finished.knows(folder):
            return
        if (folder / "config.json").is_file():
            raise UserError(
                f"export: {folder} holds a model that is not this run's: name another folder, or delete that one"
            )

    def _reported(self) -> bool:
        """The report has every evaluation of the recipe."""
        there = all((self.folder / f"report.{kind}").is_file() for kind in ("json", "html"))
        return there and self.finished.reported(self._asked(), self._done())

    def _asked(self) -> dict[str, Any]:
        """Name of each evaluation -> its class and arguments."""
        given = yaml.safe_load(self.cli.parser.dump(self.cli.config, skip_link_targets=True))["evaluation"]
        return {evaluation.name: asked for evaluation, asked in zip(self.cli.evaluation, given, strict=True)}

    def _done(self) -> int:
        from ..checkpoint import commit

        return -1 if self.checkpoint is None else commit.step_of(self.checkpoint)

    def trained(self) -> bool:
        """The last committed checkpoint is that of the last step, or of the one after which a callback ended it."""
        return self.checkpoint is not None and (self._done() >= self.total or self.ended.step == self._done())

    @property
    def length(self) -> str:
        """How long it was trained, for people."""
        if self.ended.step is None or self.ended.step >= self.total:
            return f"{self.total} steps"
        return f"ended after {self.ended.step} of {self.total} steps: {self.ended.reason}"

    def check_parts(self) -> None:
        """Check the run's parts against each other, but for the data."""
        from .preflight import check_model

        self._check_export()
        names = [evaluation.name for evaluation in self.cli.evaluation]
        if twice := {name for name in names if names.count(name) > 1}:
            raise UserError(
                f"evaluation: the name {sorted(twice)[0]!r} is there twice; give one another (init_args.name)"
            )
        for evaluation in self.cli.evaluation:
            evaluation.check()
        check_model(self.cli.model, self.cli.datamodule)

    def read_data(self) -> None:
        """Read the data's index."""
        from .preflight import check_data

        started = time.perf_counter()
        begins = self.origin.checkpoint if self.origin and self.origin.step else self.checkpoint
        check_data(self.cli.datamodule, None if self.trained() else begins)
        self.preparation = time.perf_counter() - started

    def follow(self) -> int:
        """Train, export and evaluate, as far as it is not done; returns the exit status and notes it in status.json."""
        from .following import Following

        if self.trying or not self.cli.trainer.is_global_zero:
            return self._work()
        self.following = Following(self.folder, max(0, self._done()))
        self.cli.trainer.callbacks.insert(0, self.following)  # type: ignore[attr-defined]
        return self.following.through(self._work)

    def _work(self) -> int:
        return self.finish() if self.trained() or self.train() else self.outcome

    def train(self) -> bool:
        """Train to the last step; False where this process has nothing more to do (`outcome` says how it ended)."""
        from ..checkpoint import commit
        from ..data.facts import RetryError
        from ..training import rewinds
        from ..training.callbacks import BeginFrom
        from .ending import Ending

        trainer, begins = self.cli.trainer, self.checkpoint
        if begins is not None:
            self._say(f"going on from {begins} (step {self._done()} of {self.total})")
        elif self.origin is not None:
            self._say(self.origin.news)
            if self.origin.step:
                begins = self.origin.checkpoint
            else:
                trainer.callbacks.insert(0, BeginFrom(self.origin.checkpoint))  # type: ignore[attr-defined]
        if self.news:
            self._say(self.news)
        if trainer.is_global_zero and not self.trying:
            self.finished.forget()
            self.ended.forget()
        if self.saver is not None:
            trainer.callbacks.insert(0, Ending(self.ended, self.saver, self.total))  # type: ignore[attr-defined]
        started = time.perf_counter()
        try:
            rewinds.fit(trainer, model=self.cli.model, datamodule=self.cli.datamodule, ckpt_path=begins)
        except refusals() as error:
            begun = getattr(self.cli.model, "report", None) is not None
            if isinstance(error, RetryError) or disk_full(error) or begun:
                raise
            raise UserError(f"training cannot start: {describe(error)}") from error  # no step has been done
        interrupted = self.saver is not None and self.saver.interrupted
        self.outcome = TRY_AGAIN if interrupted else DONE  # on every rank: a launcher looks at all of them
        if not trainer.is_global_zero:
            return False
        done = trainer.global_step
        if self.trying:
            print(f"trainer.fast_dev_run: {done} steps were done, and nothing of them is kept")
            return False
        self.times.add("preparation", self.preparation)
        self.times.add("training", time.perf_counter() - started)
        if interrupted:
            return False
        if self.saver is None:
            print("no checkpoint was saved (trainer.enable_checkpointing is false): nothing to export or evaluate")
            return False
        self.checkpoint = commit.latest(self.checkpoints)
        if self.checkpoint is None or commit.step_of(self.checkpoint) < done:
            raise UserError(
                f"the last step's checkpoint was not saved: see the warning above; {self.checkpoint} is last"
            )
        if self.ended.step == done:
            print(
                f"the run is done after step {done} of {self.total}: {self.ended.reason}. "
                f"(To train on nevertheless, delete {self.ended.file}.)"
            )
        elif done < self.total:
            print(f"stopped after step {done} of {self.total}: trainer.max_steps; a larger one goes on from there")
            return False
        return True

    def _say(self, text: str) -> None:
        if self.cli.trainer.is_global_zero:
            print(text)

    def finish(self) -> int:
        """Export and evaluate; returns the exit status."""
        from torch import distributed

        from . import finish, results

        if distributed.is_initialized():  # here the ranks part, and a metric of rank 0 must not wait for the others
            distributed.destroy_process_group()
        if not self.cli.trainer.is_global_zero:
            return DONE
        assert self.checkpoint is not None
        if stopping.asked():  # in the last step, which was saved
            raise stopping.Stopped(stopping.why())
        self.following.done = self._done()
        self.following.begin("export and evaluation")
        if self.export_dir is not None and not self._exported():
            replaced = " (in place of what was there)" if (self.export_dir / "config.json").is_file() else ""
            started = time.perf_counter()
            self.finished.begin_export(self.export_dir)
            finish.export_checkpoint(
                self.checkpoint, self.export_dir, results.tokenizer_of(self), dtype=results.dtype_of(self)
            )
            self.times.add("export", time.perf_counter() - started)
            if finish.lora_of(self.checkpoint) is not None:
                if reason := finish.no_adapter(self.checkpoint):
                    print(f"no adapter is written, the export holds everything: {reason}", file=sys.stderr)
                else:
                    finish.export_adapter(self.checkpoint, self.folder / "adapter", results.tokenizer_of(self))
                    print(f"adapter: {self.folder / 'adapter'}")
            self.finished.note_export(self.export_dir, self._done())
            print(f"exported: {self.export_dir}{replaced}")
        if self._reported():
            return DONE
        report = finish.evaluate(self.cli.evaluation, results.context_of(self))
        self.finished.note_report(self._asked(), self._done())
        print(f"report: {self.folder / 'report.html'}")
        for failure in report["failures"]:
            print(f"failure: {failure}", file=sys.stderr)
        return EVALUATION_FAILED if report["failures"] else DONE


def _export_folder(wanted: bool | str, folder: Path) -> Path | None:
    if wanted is False:
        return None
    return folder / "export" if wanted is True else Path(wanted)
