"""Avalanche's strategies, loggers and metrics on our benchmarks and models."""

from __future__ import annotations

import copy
import inspect
import io
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche import training
from avalanche.evaluation.metrics import accuracy_metrics, forgetting_metrics, loss_metrics
from avalanche.logging import TextLogger
from avalanche.training.plugins import EvaluationPlugin, MIRPlugin
from sklearn.metrics import f1_score
from torch import nn

from nlpcl.benchmarks import ASC, TextTask, text_benchmark_from_tasks
from nlpcl.benchmarks.image_tasks import ImageTask, image_benchmark_from_tasks
from nlpcl.evaluation import macro_f1, macro_f1_metrics
from nlpcl.experiment import fit
from nlpcl.models import build_model
from nlpcl.options import MISSING, options_of
from nlpcl.registry import strategies
from nlpcl.strategies.avalanche import ENTRIES, _MIRPlugin
from nlpcl.strategies.ncl import NCL
from tests.conftest import make_tasks
from tests.models.test_image_cnn import make_task

REQUIRED = ["Naive", "EWC", "Replay", "GEM", "AGEM", "LwF", "SynapticIntelligence", "MAS"]
ADDED = ["RWalk", "LFL", "GSS_greedy", "MIR", "CoPE", "ICaRL", "GDumb", "ER_ACE", "CWRStar", "Cumulative",
         "JointTraining"]  # fmt: skip


def runs_in(name: str) -> tuple[str, ...]:
    """The scenarios; the head of class-incremental learning is a larger one of domain-incremental learning."""
    scenarios = strategies.get(f"avalanche/{name}").scenarios
    return (*scenarios, "cil") if "dil" in scenarios else scenarios


PAIRS = [(name, scenario) for name in ADDED for scenario in runs_in(name)]


def relabelled(task: Any, scenario: str) -> Any:
    """The task, with labels that no other has where the scenario is class-incremental."""
    labels = tuple(f"{task.name} {label}" if scenario == "cil" else label for label in task.labels)
    return type(task)(task.name, labels, task.train, task.valid, task.test)


def tiny_text(scenario: str, tiny: str, classes: tuple[int, ...] = (3, 2)) -> Any:
    tasks: list[TextTask] = [relabelled(task, scenario) for task in make_tasks(classes, 24, flip=False)]
    return text_benchmark_from_tasks(tasks, name="tiny", scenario=scenario, tokenizer=tiny, max_length=24)


def tiny_images(scenario: str, classes: tuple[int, ...] = (3, 2)) -> Any:
    tasks: list[ImageTask] = [relabelled(make_task(i, c), scenario) for i, c in enumerate(classes)]
    return image_benchmark_from_tasks(tasks, name="tiny", scenario=scenario)


def build(name: str, model: nn.Module, epochs: int = 1, **options: Any) -> Any:
    entry = strategies.get(f"avalanche/{name}")
    return entry.target(
        model=model,
        optimizer=torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=8,
        train_epochs=epochs,
        eval_mb_size=32,
        evaluator=EvaluationPlugin(),
        **{**entry.defaults, **options},
    )


def train(strategy: Any, benchmark: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matrix = fit(strategy, benchmark)
    assert all(torch.isfinite(p).all() for p in strategy.model.parameters())
    return matrix


def train_two(name: str, benchmark: Any, encoder: str) -> Any:
    torch.manual_seed(0)
    model = build_model(benchmark, encoder=encoder, adapter_size=8)
    weight = "linear.weight" if name == "DER" else "linears.1.weight"
    before = model.heads.state_dict()[weight].clone()
    matrix = train(build(name, model), benchmark)
    assert not torch.equal(before, model.heads.state_dict()[weight])
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


@pytest.mark.parametrize(("name", "scenario"), PAIRS)
def test_the_others_train_on_text_and_on_images(name: str, scenario: str, tiny: str) -> None:
    """Three classes, then two; in class-incremental learning five in one head."""
    text, images = tiny_text(scenario, tiny), tiny_images(scenario)
    for benchmark, model in (
        (text, build_model(text, encoder=tiny, adapter_size=8)),
        (images, build_model(images, hidden=16)),
    ):
        before = copy.deepcopy(model.state_dict())
        strategy = build(name, model, **({"delta_t": 2} if name == "RWalk" else {}))  # a task has only a few steps
        matrix = train(strategy, benchmark)
        assert matrix.accuracy[1][1] is not None
        after = {key.replace("feature_extractor.", ""): value for key, value in strategy.model.state_dict().items()}
        assert any(not torch.equal(after[key], before[key]) for key in before if key.startswith("backbone."))


def test_every_named_strategy_is_avalanches_or_made_of_it() -> None:
    names = {entry.name for entry in strategies.entries() if entry.name.startswith("avalanche/")}
    assert names == {f"avalanche/{name}" for name in [*REQUIRED, "DER", *ADDED]}
    assert {target.__name__ for target in ENTRIES} == {name.partition("/")[2] for name in names}
    for name in [*REQUIRED, "DER", "GDumb", "ER_ACE", "CWRStar", "Cumulative", "JointTraining"]:
        assert strategies.get(f"avalanche/{name}").target is getattr(training, name)


@pytest.mark.parametrize("target", ENTRIES, ids=lambda target: target.__name__)
def test_the_name_alone_works_and_what_does_not_run_has_a_reason(target: Any) -> None:
    entry = strategies.get(f"avalanche/{target.__name__}")
    assert all(option.default is not MISSING for option in options_of(entry.target, entry.defaults).values())
    assert bool(entry.reason) == (entry.scenarios != ("til", "dil"))
    signature = inspect.signature(target.__init__).parameters
    assert {"model", "optimizer"} <= set(signature) or any(p.kind is p.VAR_KEYWORD for p in signature.values())


def test_the_documentation_is_the_registry() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "avalanche.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `avalanche/(\w+)` \| ([a-z, ]+) \|", page, flags=re.MULTILINE))
    assert rows == {
        entry.name.partition("/")[2]: ", ".join(entry.scenarios)
        for entry in strategies.entries()
        if entry.name.startswith("avalanche/")
    }


@pytest.mark.parametrize("name", ["LFL", "GSS_greedy", "CoPE", "ICaRL"])
def test_what_needs_one_head_says_so(name: str) -> None:
    with pytest.raises(TypeError, match="one head"):
        build(name, build_model(tiny_images("til"), hidden=16))


def test_lfl_keeps_the_head_and_pulls_the_features() -> None:
    benchmark = tiny_images("dil")
    strategy = build("LFL", build_model(benchmark, hidden=16), lambda_e=3.0)
    train_first, train_second = benchmark.train_stream
    strategy.train(train_first, eval_streams=[])
    head = strategy.model.heads.linear.weight.clone()
    x = torch.stack([train_first.dataset[i][0] for i in range(4)])
    plugin = next(plugin for plugin in strategy.plugins if hasattr(plugin, "lambda_e"))
    assert plugin.penalty(x, strategy.model, 3.0) == 0
    with torch.no_grad():
        strategy.model.backbone.linears[1].weight.mul_(1.5)
        distance = strategy.model.backbone.features(x, 0) - plugin.prev_model.backbone.features(x, 0)
    torch.testing.assert_close(plugin.penalty(x, strategy.model, 3.0), 3 * distance.square().mean())
    strategy.train(train_second, eval_streams=[])
    assert torch.equal(strategy.model.heads.linear.weight, head)


def test_gss_keeps_texts_as_they_are_and_replays_none_that_it_has_not(tiny: str) -> None:
    benchmark = tiny_text("dil", tiny)
    strategy = build("GSS_greedy", build_model(benchmark, encoder=tiny, adapter_size=8), mem_size=40)
    plugin = next(plugin for plugin in strategy.plugins if hasattr(plugin, "ext_mem_list_x"))
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    assert plugin.ext_mem_list_x.dtype is torch.int64 and plugin.ext_mem_list_x.shape == (40, 3, 24)
    assert plugin.ext_mem_list_current_index == 24
    known = {tuple(benchmark.train_stream[0].dataset[i][0].flatten().tolist()) for i in range(24)}
    assert {tuple(x.flatten().tolist()) for x in plugin.ext_mem_list_x[:24]} == known
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    assert plugin.ext_mem_list_current_index == 40
    assert (plugin.ext_mem_list_x[:, 1].sum(dim=1) > 0).all()


def test_mir_replays_what_avalanches_does_where_everything_trains() -> None:
    benchmark = tiny_images("dil")
    torch.manual_seed(0)
    model = build_model(benchmark, hidden=16).eval()  # without dropout, as both draw masks at other moments
    examples = [benchmark.train_stream[0].dataset[i] for i in range(24)]
    x, y = torch.stack([e[0] for e in examples]), torch.tensor([e[1] for e in examples])
    losses = []
    for plugin in (MIRPlugin(5, 200, 16), _MIRPlugin(5, 200, 16)):
        strategy = build("Naive", model)
        plugin.replay_loader = iter([(x[8:], y[8:], torch.zeros(16, dtype=torch.long))])
        strategy.optimizer.param_groups[0]["lr"] = 0.5
        strategy.loss = nn.functional.cross_entropy(model(x[:8], 0), y[:8])
        alone = strategy.loss.item()
        plugin.before_backward(strategy)
        assert strategy.loss.item() > alone
        losses.append(strategy.loss)
    torch.testing.assert_close(losses[0], losses[1])


def test_mir_remembers_every_class_of_tasks_that_share_them() -> None:
    benchmark = tiny_images("dil", (2, 2))
    strategy = build("MIR", build_model(benchmark, hidden=16))
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    plugin = next(plugin for plugin in strategy.plugins if isinstance(plugin, MIRPlugin))
    labels = next(plugin.replay_loader)[1]
    assert set(labels.tolist()) == {0, 1}


def test_cope_answers_with_the_nearest_prototype() -> None:
    benchmark = tiny_images("dil")
    strategy = build("CoPE", build_model(benchmark, hidden=16), epochs=6, p_size=12, alpha=0.5)
    plugin = next(plugin for plugin in strategy.plugins if hasattr(plugin, "p_mem"))
    matrix = train(strategy, benchmark)
    prototypes = torch.cat([plugin.p_mem[c] for c in range(3)])
    torch.testing.assert_close(prototypes.norm(dim=1), torch.ones(3))
    test = benchmark.test_stream[1].dataset
    strategy.model.eval()
    with torch.no_grad():
        embedding = strategy.model(torch.stack([test[i][0] for i in range(len(test))]), 0)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(len(test)))
    right = (embedding @ prototypes.T).argmax(dim=1) == torch.tensor(list(test.targets))
    assert matrix.accuracy[1][1] == pytest.approx(right.float().mean().item())


def test_icarl_answers_with_the_nearest_class_mean_and_learns_a_class_once() -> None:
    benchmark = tiny_images("cil")
    strategy = build("ICaRL", build_model(benchmark, hidden=16), epochs=2, memory_size=20)
    matrix = train(strategy, benchmark)
    test = benchmark.test_stream[1].dataset
    model = strategy.model.eval()
    with torch.no_grad():
        features = model.feature_extractor(torch.stack([test[i][0] for i in range(len(test))]))
    features = features / features.norm(dim=1, keepdim=True)
    right = torch.cdist(features, model.eval_classifier.class_means).argmin(1) == torch.tensor(list(test.targets))
    assert matrix.accuracy[1][1] == pytest.approx(right.float().mean().item())
    again = tiny_images("dil")
    with pytest.raises(ValueError, match="each class once"):
        train(build("ICaRL", build_model(again, hidden=16)), again)


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
