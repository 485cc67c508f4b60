"""Avalanche's strategies, loggers and metrics on our benchmarks and models."""

from __future__ import annotations

import io
import warnings
from typing import Any

import pytest
import torch
from avalanche import training
from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics, loss_metrics
from avalanche.logging import TextLogger
from avalanche.training.plugins import EvaluationPlugin
from sklearn.metrics import f1_score
from torch import nn

from nlpcl.benchmarks import ASC
from nlpcl.evaluation import macro_f1, macro_f1_metrics
from nlpcl.experiment import fit
from nlpcl.models import build_model
from nlpcl.registry import strategies
from nlpcl.strategies.avalanche import DEFAULTS
from nlpcl.strategies.ncl import NCL

REQUIRED = ["Naive", "EWC", "Replay", "GEM", "AGEM", "LwF", "SynapticIntelligence", "MAS"]


def train_two(name: str, benchmark: Any, encoder: str) -> Any:
    torch.manual_seed(0)
    model = build_model(benchmark, encoder=encoder, adapter_size=8)
    before = model.heads.state_dict()["linear.weight" if name == "DER" else "linears.1.weight"].clone()
    strategy = getattr(training, name)(
        model=model,
        optimizer=torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=8,
        train_epochs=1,
        eval_mb_size=32,
        evaluator=None,
        **DEFAULTS[name],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matrix = fit(strategy, benchmark)
    after = model.heads.state_dict()["linear.weight" if name == "DER" else "linears.1.weight"]
    assert not torch.equal(before, after)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    return matrix


@pytest.mark.parametrize("name", REQUIRED)
def test_avalanche_strategy_trains_two_real_asc_tasks(name: str, tiny: str, data_root: Any) -> None:
    """A SemEval task (3 classes) and a product task (2 classes), each with its own head."""
    benchmark = ASC("til", ["XuSemEval14_laptop", "Bing9domains_ipod"], tokenizer=tiny, max_length=32,
                    train_size=32, root=data_root)  # fmt: skip
    assert benchmark.n_classes == [3, 2]
    assert train_two(name, benchmark, tiny).accuracy[1][0] is not None


def test_avalanche_der_trains_two_real_asc_tasks_with_a_shared_head(tiny: str, data_root: Any) -> None:
    benchmark = ASC("dil", ["XuSemEval14_laptop", "Bing9domains_ipod"], tokenizer=tiny, max_length=32,
                    train_size=32, root=data_root)  # fmt: skip
    assert train_two("DER", benchmark, tiny).accuracy[1][0] is not None


def test_every_named_strategy_is_avalanches() -> None:
    for name in DEFAULTS:
        assert strategies.get(f"avalanche/{name}").target is getattr(training, name)


def test_avalanches_metrics_and_loggers_work_beside_ours(benchmark_of: Any, tiny: str) -> None:
    benchmark, written = benchmark_of("til", (2, 2)), io.StringIO()
    evaluator = EvaluationPlugin(
        accuracy_metrics(experience=True, stream=True),
        forgetting_metrics(experience=True),
        loss_metrics(epoch=True),
        macro_f1_metrics(experience=True, stream=True),
        loggers=[TextLogger(written)],
    )
    model = build_model(benchmark, encoder=tiny, adapter_size=8)
    strategy = NCL(model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3), evaluator=evaluator)
    matrix = fit(strategy, benchmark)
    last = evaluator.get_last_metrics()
    for task in range(2):
        tail = f"eval_phase/test_stream/Task00{task}/Exp00{task}"
        assert last[f"Top1_Acc_Exp/{tail}"] == pytest.approx(matrix.accuracy[1][task])
        assert last[f"MacroF1_Exp/{tail}"] == pytest.approx(matrix.macro_f1[1][task])
    assert "MacroF1_Stream" in written.getvalue()
    assert "Loss_Epoch" in written.getvalue()


def test_macro_f1_is_scikit_learns() -> None:
    torch.manual_seed(0)
    for classes in (1, 2, 3, 7):
        predictions, targets = torch.randint(classes, (20,)), torch.randint(max(1, classes - 1), (20,))
        expected = f1_score(targets, predictions, average="macro")
        assert macro_f1(predictions, targets) == pytest.approx(expected, abs=1e-6)
