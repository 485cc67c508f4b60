"""Avalanche's strategies, loggers and metrics on our benchmarks and models."""

from __future__ import annotations

import copy
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
from avalanche.training.plugins import EvaluationPlugin, MIRPlugin, SupervisedPlugin
from sklearn.metrics import f1_score
from torch import nn

from nlpcl.benchmarks import ASC, text_benchmark_from_tasks
from nlpcl.benchmarks.words import Words
from nlpcl.errors import UsageError
from nlpcl.evaluation import macro_f1, macro_f1_metrics
from nlpcl.models import Backbone, build_model
from nlpcl.options import MISSING
from nlpcl.registry import strategies
from nlpcl.runs.fit import fit
from nlpcl.strategies.avalanche.adapted import _MIRPlugin
from nlpcl.strategies.ncl import NCL
from tests.helpers.encoders import WORDS
from tests.helpers.images import of_other_classes, tiny_images
from tests.helpers.messages import refused
from tests.helpers.text_tasks import make_tasks

NAMES = [entry.name.partition("/")[2] for entry in strategies.entries() if entry.name.startswith("avalanche/")]
SLOW = pytest.param("SynapticIntelligence", marks=pytest.mark.full)
TEXT = ("bert_adapter", "bert_frozen", "w2v")
BODIES: dict[str, dict[str, Any]] = {
    "bert_adapter": {"adapter_size": 16},
    "bert_frozen": {"filters": 16, "dropout": 0.1},
    "w2v": {"filters": 16, "dropout": 0.1},
    "cnn": {"hidden": 64},
    "mlp": {"hidden": 64},
}
# So that a second task is learnt within a hundred steps.
SHORT: dict[str, dict[str, Any]] = {
    **{"MAS": {"lambda_reg": 0.01}, "DER": {"alpha": 0.01}, "CoPE": {"alpha": 0.5}, "MER": {"beta": 0.5, "gamma": 1.0}}
}


def runs_in(name: str) -> tuple[str, ...]:
    """The scenarios; the head of class-incremental learning is a larger one of domain-incremental learning."""
    scenarios = strategies.get(f"avalanche/{name}").scenarios
    return (*scenarios, "cil") if "dil" in scenarios and name != "LFL" else scenarios


def often(name: str, scenario: str, body: str) -> bool:
    """Not only with `-m full`; texts in til and dil are trained on by tests/test_contract.py."""
    return name != "MER" and (body == "mlp" or (body == "w2v" and scenario == "cil"))


TRIPLES = [
    pytest.param(name, scenario, body, marks=[] if often(name, scenario, body) else [pytest.mark.full])
    for body in BODIES
    for name in NAMES
    for scenario in runs_in(name)
]


def tiny_text(scenario: str, tokenizer: Any, classes: tuple[int, ...] = (3, 2), n: int = 24) -> Any:
    first, second = make_tasks(classes, n, flip=False)
    tasks = [first, of_other_classes(second) if scenario == "cil" else second]
    return text_benchmark_from_tasks(tasks, name="tiny", scenario=scenario, tokenizer=tokenizer, max_length=24)


class Losses(SupervisedPlugin[Any], supports_distributed=False):  # type: ignore[call-arg]
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.seen.append(strategy.loss.detach())


def build(name: str, model: nn.Module, epochs: int = 1, lr: float = 1e-3, **options: Any) -> Any:
    entry = strategies.get(f"avalanche/{name}")
    return entry.target(
        model=model,
        optimizer=torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr),
        train_mb_size=8,
        train_epochs=epochs,
        eval_mb_size=32,
        evaluator=EvaluationPlugin(),
        **{"criterion": nn.CrossEntropyLoss(), **dict(entry.options()), **options},
    )


def train(strategy: Any, benchmark: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matrix = fit(strategy, benchmark)
    assert all(torch.isfinite(p).all() for p in strategy.model.parameters())
    return matrix


@pytest.fixture(scope="session")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of random vectors of the tests' words."""
    file = tmp_path_factory.mktemp("vectors") / "vectors.txt"
    rows = torch.randn(len(WORDS), 16, generator=torch.Generator().manual_seed(0)).tolist()
    file.write_text("".join(f"{word} {' '.join(map(str, row))}\n" for word, row in zip(WORDS, rows, strict=True)))
    return str(file)


def train_two(name: str, benchmark: Any, encoder: str) -> Any:
    torch.manual_seed(0)
    model = build_model(benchmark, encoder=encoder, adapter_size=8)
    weight = "linear.weight" if name == "DER" else "linears.1.weight"
    before = model.heads.state_dict()[weight].clone()
    matrix = train(build(name, model), benchmark)
    assert not torch.equal(before, model.heads.state_dict()[weight])
    return matrix


@pytest.mark.parametrize("name", ["Naive", "EWC", "Replay", "GEM", "AGEM", "LwF", SLOW, "MAS"])
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


@pytest.mark.parametrize(("name", "scenario", "body"), TRIPLES)
def test_what_runs_on_what(name: str, scenario: str, body: str, tiny: str, vectors: str) -> None:
    """Two tasks train, no loss is infinite, and the last is learnt; in cil among the classes of both."""
    torch.manual_seed(0)
    classes, encoder = (2, 2) if scenario == "cil" else (3, 2), None if body == "w2v" else tiny
    if body in TEXT:
        benchmark = tiny_text(scenario, encoder or Words(vectors, "second"), classes, n=48)
    else:
        benchmark = tiny_images(scenario, classes)
    model = build_model(benchmark, body, encoder, **BODIES[body])
    before, losses = copy.deepcopy(model.backbone.state_dict()), Losses()
    lr = 2e-3 if body == "cnn" else 1e-2
    epochs = 24 if name in ("GSS_greedy", "CoPE", "CWRStar") and body.startswith("bert") else 8
    strategy = build(name, model, epochs=epochs, lr=lr, plugins=[losses], **SHORT.get(name, {}))
    last = train(strategy, benchmark).accuracy[1][1]
    assert len(losses.seen) >= 48 and torch.isfinite(torch.stack(losses.seen)).all()
    parts = [part for part in strategy.model.modules() if isinstance(part, Backbone)]
    assert any(not torch.equal(value, before[key]) for key, value in parts[0].state_dict().items())
    if (name, scenario) != ("CWRStar", "cil"):  # there it may not be: docs/avalanche.md says why
        assert last > (0.4 if scenario == "cil" else 0.65)


def test_what_is_not_avalanches_own_class_is_adapted() -> None:
    targets = {name: strategies.get(f"avalanche/{name}").target for name in NAMES}
    ours = {
        "CWRStar",
        "EWC",
        "AGEM",
        "LwF",
        "MAS",
        "RWalk",
        "LFL",
        "GSS_greedy",
        "MIR",
        "CoPE",
        "ICaRL",
        "JointTraining",
    }
    assert {name for name, target in targets.items() if target is not getattr(training, name, None)} == ours


@pytest.mark.parametrize(
    ("typed", "found"),
    [("SI", "SynapticIntelligence"), ("CWR*", "CWRStar"), ("er-ace", "ER_ACE"), ("Joint", "JointTraining"),
     ("GSS", "GSS_greedy"), ("iCaRL", "ICaRL"), ("DER++", "DER"), ("ER", "Replay")],
)  # fmt: skip
def test_the_usual_names_find_them(typed: str, found: str) -> None:
    assert strategies.get(f"avalanche/{typed}").name == f"avalanche/{found}"


@pytest.mark.parametrize("typed", ["SI", "joint", "cwr*", "lwf"])
def test_a_bare_name_is_offered_in_full(typed: str) -> None:
    with pytest.raises(UsageError, match=rf"(?i)avalanche/{re.escape(typed)}"):
        strategies.get(typed)


@pytest.mark.parametrize("name", NAMES)
def test_the_name_alone_works_and_what_does_not_run_has_a_reason(name: str) -> None:
    entry = strategies.get(f"avalanche/{name}")
    assert all(option.default is not MISSING and option.help for option in entry.options.declared().values())
    assert bool(entry.reason) == (entry.scenarios != ("til", "dil"))


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


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("EWC", {"mode": "online"}, "decay_factor mode=online"),
        ("EWC", {"decay_factor": 0.5}, "decay_factor mode=online"),
        ("AGEM", {"sample_size": 1}, "sample_size=2"),
        ("LwF", {"alpha": [1.0]}, "alpha 2 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with refused(words):
        build(name, build_model(tiny_images("til"), hidden=16), **options)


def test_what_cannot_work_is_refused_before_it_trains() -> None:
    benchmark = tiny_images("cil")
    with refused("LFL classes"):
        train(build("LFL", build_model(benchmark, hidden=16)), benchmark)
    with refused("RWalk 6"):
        train(build("RWalk", build_model(benchmark, hidden=16)), benchmark)
    with refused("mem_size=40"):
        build("GSS_greedy", build_model(benchmark, hidden=16), mem_size=39)
    again = tiny_images("dil")
    with refused("ICaRL class"):
        train(build("ICaRL", build_model(again, hidden=16)), again)


def test_mas_goes_on_where_a_loss_is_0() -> None:
    benchmark = tiny_images("dil")
    model = build_model(benchmark, hidden=16)
    train(build("MAS", model, criterion=lambda output, target: 0 * output.sum()), benchmark)


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
