"""What a start imports, and that packages are what they always were for those who ask for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.forks import clean_environment

UNUSED = (
    "scipy", "torchvision", "transformers", "torchmetrics.functional", "torchmetrics.classification", "pandas", "s3fs",
    "torch._dynamo.config", "torch._inductor", "torch.distributed.fsdp", "torch.distributed.tensor", "sympy",
)  # fmt: skip
"""Seconds of imports that a training of images, clips and text in one process has no use for."""

FIRST = "from neo_lightning.cli.on_demand import import_on_demand as on_demand; on_demand(); "


def python(program: str, *arguments: str) -> str:
    """Output of a process of its own: what an import does is seen once."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_run_imports_nothing_that_it_does_not_use(micro: Path) -> None:
    program = (
        "import sys; from neo_lightning.cli.main import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        f"print('unused:', [name for name in {UNUSED} if name in sys.modules])\n"
        "print('on_demand' in type(sys.modules['torchmetrics']).__module__)"
    )
    said = python(program, "run", str(micro), "--trainer.max_steps=1", "--evaluation=[]").splitlines()
    assert said[-2:] == ["unused: []", "True"], said[-2:]


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [
        "import torchmetrics, lightning.pytorch as pl; assert torchmetrics.MeanMetric()(2.0) == 2",
        "import lightning.pytorch as pl; from torchmetrics import Accuracy; assert Accuracy('binary')",
        "import lightning.pytorch as pl; from torchmetrics.text import Perplexity; assert Perplexity()",
        "from torchmetrics.classification import BinaryAccuracy as A; import lightning.pytorch; assert A()",
        "from torchmetrics.functional import accuracy as f; import torch; x = torch.ones(3); assert f(x, x, 'binary')",
        "from torchmetrics.metric import Metric",
        "from torchmetrics import *; assert MeanMetric",
    ],
)
def test_all_of_torchmetrics_is_there_for_those_who_ask(program: str) -> None:
    check = (
        "\nimport sys, torchmetrics; from torchmetrics.metric import Metric; "
        "assert torchmetrics.Metric is Metric; from torchmetrics import MeanMetric, MetricCollection; "
        "assert issubclass(MeanMetric, Metric); assert MetricCollection([MeanMetric()]); "
        "assert torchmetrics.__version__.split('.')[0].isdecimal(); print(torchmetrics.__name__)"
    )
    assert python(FIRST + program + check) == "torchmetrics\n"


def test_another_layout_of_torchmetrics_is_imported_whole(tmp_path: Path) -> None:
    package = tmp_path / "torchmetrics"
    package.mkdir()
    (package / "__init__.py").write_text("from .all import Metric, MetricCollection, CatMetric\n__version__ = '9'")
    (package / "all.py").write_text("class Metric: ...\nclass MetricCollection: ...\nclass CatMetric(Metric): ...")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {FIRST}"
        "from torchmetrics import Metric, CatMetric; assert issubclass(CatMetric, Metric); "
        "import torchmetrics; print(torchmetrics.__version__, 'torchmetrics.all' in sys.modules)"
    )
    assert python(program) == "9 True\n"


@pytest.mark.slow
def test_a_compiler_that_is_asked_for_late_is_the_whole_one() -> None:
    """Behind an optimiser's step, which has called what stands for it."""
    program = FIRST + (
        "import lightning.pytorch as pl, torch, sys\n"
        "layer = torch.nn.Linear(2, 2); adam = torch.optim.AdamW(layer.parameters())\n"
        "layer(torch.ones(1, 2)).sum().backward(); adam.step(); adam.zero_grad()\n"
        "from torch._dynamo import OptimizedModule as standing\n"
        "print('torch._dynamo.config' in sys.modules, isinstance(layer, standing))\n"
        "plain = torch.optim.Optimizer.zero_grad.__wrapped__\n"
        "compiled = torch.compile(layer, backend='eager'); assert compiled(torch.ones(1, 2)).shape == (1, 2)\n"
        "import torch._dynamo.config\n"
        "print(torch._dynamo.OptimizedModule is standing, *(isinstance(x, standing) for x in (compiled, layer)))\n"
        "adam.zero_grad(); print(plain.__dynamo_disable is not plain, torch._dynamo.list_backends() != [])\n"
    )
    assert python(program).splitlines() == ["False False", "False True False", "True True"]
