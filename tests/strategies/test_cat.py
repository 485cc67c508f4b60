"""CAT: detection of similar tasks, what is blocked and what is not, both heads, and the state of the model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche.training import Naive
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel

from nlpcl.benchmarks._images import GREY, Images, ImageTask, image_benchmark_from_tasks
from nlpcl.config.resolve import resolve
from nlpcl.config.spec import RunSpec
from nlpcl.models import build_model
from nlpcl.models.gates import sparsity
from nlpcl.runs.run import setup
from nlpcl.strategies.cat import cat
from nlpcl.strategies.cat.cat import CAT, CATPlugin, batches, copied, data_for
from nlpcl.strategies.cat.task_transfer import TransferModel, readout_logits, train_readouts
from nlpcl.training.early_stopping import validation_loss
from nlpcl.training.forward import mode
from tests.helpers.images import tiny_images
from tests.helpers.training import Spy
from tests.helpers.validation import Plateau, train_with_validation


def build(benchmark: Any, similar: dict[int, list[int]] | None = None, **options: Any) -> CAT:
    """CAT on a small net for images; `similar`, where given, is what it finds."""
    torch.manual_seed(1)
    model = build_model(benchmark, hidden=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    settings = {"train_mb_size": 8, "train_epochs": 2, "eval_mb_size": 16, "gate_learning_rate": 0.01, **options}
    return finds(CAT(model=model, optimizer=optimizer, **settings), similar)


def finds(strategy: CAT, similar: dict[int, list[int]] | None) -> CAT:
    if similar is not None:
        strategy.masks.similar_tasks = lambda s, task, previous: similar.get(task, [])  # type: ignore[method-assign]
    return strategy


def train(strategy: Any, benchmark: Any, *tasks: int) -> None:
    for task in tasks:
        strategy.train(benchmark.train_stream[task], eval_streams=[])


def inputs(experience: Any) -> Tensor:
    return torch.stack([experience.dataset[i][0] for i in range(len(experience.dataset))])


def striped(name: str, n: int, seed: int, columns: bool = False, flip: bool = False) -> ImageTask:
    """Images with a bright stripe, across or upright, whose place is the class."""
    generator = torch.Generator().manual_seed(seed)

    def images(n: int) -> Images:
        targets = [i % 2 for i in range(n)]
        pool = torch.rand(n, 1, 16, 16, generator=generator)
        for image, target in zip(pool, targets, strict=True):
            place = slice(4 + 4 * target, 8 + 4 * target)
            image[(0, slice(None), place) if columns else (0, place)] += 0.6
        return Images(pool / 2, range(n), [1 - t for t in targets] if flip else targets, GREY)

    return ImageTask(name, ("a", "b"), images(n), images(64), images(8))


def without_valid(benchmark: Any) -> Any:
    """Its streams do not know it, and so no validation data, as those of Avalanche."""
    for stream in benchmark.streams.values():
        stream.benchmark = None
    return benchmark


@pytest.mark.parametrize("scenario", ["til", "dil"])
def test_detection(scenario: str) -> None:
    """Too few examples to learn from scratch what task 0 knows, or its opposite; enough to learn something else."""
    tasks = [striped("rows", 128, 0), striped("again", 16, 1), striped("turned", 16, 2, flip=True)]
    tasks.append(striped("columns", 128, 3, columns=True))
    benchmark = image_benchmark_from_tasks(tasks, name="striped", scenario=scenario)
    # Gates that start open: so small a net can lose all its units to the sparsity loss before it has learnt anything.
    strategy = build(benchmark, gate_mean=2.0, lamb=0.1)
    for task, epochs in enumerate((6, 1, 1, 6)):
        strategy.train_epochs = epochs
        train(strategy, benchmark, task)
        if task == 0:
            strategy.model.eval()
            found = strategy.model(inputs(benchmark.valid_stream[0]), 0).argmax(1)
            assert (found == torch.tensor(list(benchmark.valid_stream[0].dataset.targets))).float().mean() > 0.9
    assert strategy.model.transfers.similar[:2] == [[], [0]]
    assert strategy.model.transfers.similar[2] == [0, 1]  # a readout turns labels round
    assert strategy.model.transfers.similar[3] == []


def test_validation_data_are_the_streams_or_held_out_but_never_trained_on(benchmark_of: Any) -> None:
    benchmark = benchmark_of("til", (2, 3))
    data, valid, held_out = data_for(benchmark.train_stream[1])
    assert not held_out and len(data) == 64
    assert torch.equal(valid[3][0], benchmark.valid_stream[1].dataset[3][0])

    without_valid(benchmark)
    data, valid, held_out = data_for(benchmark.train_stream[1])
    assert held_out and len(valid) == 6 and len(data) == 58
    again = data_for(benchmark.train_stream[1])[1]
    assert all(torch.equal(valid[i][0], again[i][0]) for i in range(6))
    everything = sorted(d[i][0].flatten().tolist() for d in (data, valid) for i in range(len(d)))
    x = inputs(benchmark.train_stream[1])
    assert everything == sorted(x.flatten(1).tolist())


class Untouchable:
    """Raises whatever one does with it."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError("touched")

    def __len__(self) -> int:
        raise AssertionError("touched")

    def __getitem__(self, row: Any) -> Any:
        raise AssertionError("touched")


@pytest.mark.parametrize("scenario", ["til", "dil"])
def test_a_real_stream_gives_its_validation_data_and_test_data_are_not_touched(
    scenario: str, tiny: str, data_root: Path
) -> None:
    given = {"benchmark": "asc", "tasks": 3, "train_size": 60, "strategy": "cat", "backbone": "bert", "model": tiny}
    spec = resolve(RunSpec.parse({**given, "scenario": scenario, "max_length": 32, "options": {"readout_steps": 20}}))
    benchmark, strategy = setup(spec, data_root=data_root, device=torch.device("cpu"))
    sizes = [len(experience.dataset) for experience in benchmark.valid_stream]  # type: ignore[attr-defined]
    for experience in benchmark.test_stream:  # type: ignore[attr-defined]
        experience._dataset = Untouchable()
    asked: list[Any] = []
    strategy.plugins.append(Spy("before_training_exp", lambda s: asked.append(s.masks.data)))
    for task, experience in enumerate(benchmark.train_stream):  # type: ignore[attr-defined]
        train(strategy, benchmark, task)
        data, valid, held_out = asked[task]
        assert not held_out and len(data) == len(experience.dataset) == 60 and len(valid) == sizes[task]
        rows = benchmark.valid_stream[task].dataset  # type: ignore[attr-defined]
        assert all(torch.equal(valid[i][0], rows[i][0]) and valid[i][1] == rows[i][1] for i in range(len(rows)))
    with pytest.raises(AssertionError, match="touched"):
        strategy.eval(benchmark.test_stream)  # type: ignore[attr-defined]


def test_held_out_examples_are_not_trained_on() -> None:
    """Neither by the model nor by its reference, a copy of the initial model and so of its hook."""
    benchmark = without_valid(tiny_images("til", (2, 2)))
    seen: list[Tensor] = []
    strategy = build(benchmark, plugins=[Spy("after_forward", lambda s: seen.append(s.mb_x))], readout_steps=2)
    strategy.masks.initial.register_forward_pre_hook(lambda m, given: seen.append(given[0]) if m.training else None)
    for task in (0, 1):
        seen.clear()
        valid = data_for(benchmark.train_stream[task])[1]
        train(strategy, benchmark, task)
        assert sum(len(x) for x in seen) == 2 * 43 * (1 + task)
        trained = {tuple(x.flatten().tolist()) for x in torch.cat(seen)}
        assert len(trained) == 43
        assert trained.isdisjoint(tuple(valid[i][0].flatten().tolist()) for i in range(len(valid)))


def test_a_tie_with_the_reference_is_not_similarity() -> None:
    """Nor is it where the quotients differ by rounding: 3 of 7 is more in single than in double precision."""
    benchmark = tiny_images("til", (2, 2, 2, 2))
    strategy = build(benchmark)
    strategy.masks.reference_right = lambda s, task: 3  # type: ignore[method-assign]
    strategy.masks.readouts_right = lambda s, task, previous: torch.tensor([2, 3, 4])  # type: ignore[method-assign]
    assert strategy.masks.similar_tasks(strategy, 3, [0, 1, 2]) == [2]


def test_reference_and_readouts_are_those_of_plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole batches and no dropout, so that chance has no part; right answers are those on validation data."""
    benchmark = tiny_images("til", (2, 2, 2))
    torch.manual_seed(1)
    model = build_model(benchmark, hidden=32)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.1)
    strategy = CAT(model=model, optimizer=optimizer, train_mb_size=48, train_epochs=2, readout_steps=30)
    masks = strategy.masks
    made: list[Any] = []
    monkeypatch.setattr(cat, "copied", lambda model: made.append(copied(model)) or made[-1])  # type: ignore[func-returns-value]
    found: list[Any] = []

    def see(strategy: Any, task: int, previous: list[int]) -> list[int]:
        found.append(masks.reference_right(strategy, task))
        torch.manual_seed(5)
        found.append(masks.readouts_right(strategy, task, previous).tolist())
        return []

    masks.similar_tasks = lambda s, task, previous: see(s, task, previous) if task == 2 else []  # type: ignore[method-assign]
    train(strategy, benchmark, 0, 1, 2)

    (x, y), (valid_x, valid_y) = (
        (inputs(stream[2]), torch.tensor(list(stream[2].dataset.targets)))
        for stream in (benchmark.train_stream, benchmark.valid_stream)
    )
    alone = copied(masks.initial).train()
    weights = {"params": [p for p in alone.parameters() if p.dim() > 1], "weight_decay": 0.1}
    biases = {"params": [p for p in alone.parameters() if p.dim() < 2], "weight_decay": 0.0}
    of_loop = torch.optim.SGD([weights, biases], lr=0.05)
    for _ in range(2):
        of_loop.zero_grad()
        F.cross_entropy(alone(x, 2), y).backward()
        of_loop.step()
    for p, expected in zip(made[0].parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p, expected, atol=1e-5, rtol=1e-4)
    assert found[0] == int((alone.eval()(valid_x, 2).argmax(1) == valid_y).sum())

    strategy.model.eval()
    with torch.no_grad():
        features, asked = (
            torch.stack([strategy.model.backbone.features(part, k) for k in (0, 1)], dim=1) for part in (x, valid_x)
        )
    # Task 2 has trained since, but similar to none it could move nothing that the masks of 0 and 1 use.
    torch.manual_seed(5)
    weight, bias = train_readouts(features, y, 2, steps=30, learning_rate=0.01)
    assert found[1] == (readout_logits(asked, weight, bias).argmax(-1) == valid_y).sum(dim=1).tolist()


def of_stream(stream: Any) -> tuple[Tensor, Tensor]:
    """Inputs and targets of an experience."""
    return inputs(stream), torch.tensor(list(stream.dataset.targets))


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@pytest.mark.parametrize("plateau", [None, Plateau(2, 3.0, 0.5)], ids=["best epoch", "plateau"])
def test_the_reference_is_chosen_on_validation_data_as_a_plain_loop_would(plateau: Plateau | None) -> None:
    """With the rates of the template's groups, whole batches and no dropout, so that chance has no part."""
    benchmark = tiny_images("til", (2, 2))
    torch.manual_seed(1)
    model: Any = without_dropout(build_model(benchmark, hidden=32))
    rate, epochs = 2.0, 14
    heads = {"params": list(model.heads.parameters()), "lr": rate / 2}
    optimizer = torch.optim.SGD([{"params": list(model.backbone.parameters())}, heads], lr=rate)
    settings: Any = plateau.settings if plateau else {"best_epoch": True}
    strategy = CAT(
        model=model,
        optimizer=optimizer,
        train_mb_size=48,
        train_epochs=epochs,
        readout_steps=2,
        clip_norm=1.0,
        **settings,
    )
    references: list[Any] = []  # the copies of the initial model have its hook
    strategy.masks.initial.register_forward_pre_hook(lambda model, given: references.append(model))
    train(strategy, benchmark, 0, 1)
    reference = references[-1]
    alone: Any = copied(strategy.masks.initial).train()
    (x, y), (valid_x, valid_y) = of_stream(benchmark.train_stream[1]), of_stream(benchmark.valid_stream[1])

    def step(now: float) -> None:
        alone.train()
        alone.zero_grad()
        F.cross_entropy(alone(x, 1), y).backward()
        own = [p for p in alone.parameters() if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in own]).norm()
        of_head = {id(p) for p in alone.heads.parameters()}
        with torch.no_grad():
            for p in own:
                p -= (now / 2 if id(p) in of_head else now) * p.grad * min(1.0, 1.0 / float(norm))

    @torch.no_grad()
    def validate() -> float:
        return float(F.cross_entropy(alone.eval()(valid_x, 1), valid_y))

    best, rates = train_with_validation(
        step, validate, list(alone.parameters()), epochs=epochs, learning_rate=rate, plateau=plateau
    )
    assert best < len(rates)
    assert plateau is None or rates[-1] < rate
    for p, expected in zip(reference.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("scenario", ["til", "dil"])
def test_both_heads_are_judged_on_validation_data(scenario: str) -> None:
    """Under the masks as they would be stored; a task without similar ones has one head."""
    benchmark = tiny_images(scenario, (2, 2, 2))
    seen: list[int] = []

    def see(strategy: CAT) -> None:
        task, model, gates = strategy.experience.current_experience, strategy.model, strategy.masks.gates
        found = validation_loss(strategy)
        x, y = of_stream(benchmark.valid_stream[task])
        with mode(model, training=False), torch.no_grad():
            gates.override = None
            expected = F.cross_entropy(model.heads(model.backbone.features(x, task), task), y)
            if task == 2:
                features = torch.stack([model.backbone.features(x, k) for k in (0, 1)])
                expected = expected + 0.3 * F.cross_entropy(model.transfers.of(2)(features), y)
        gates.override = None if scenario == "til" else task
        assert found == pytest.approx(float(expected), rel=1e-4)
        seen.append(task)

    strategy = build(benchmark, {2: [0, 1]}, plugins=[Spy("after_training_epoch", see)], model_weight=0.3)
    train(strategy, benchmark, 0, 1, 2)
    assert seen == [0, 0, 1, 1, 2, 2]


def test_readouts_see_the_stored_masks_and_the_data_in_order(benchmark_of: Any, tiny: str) -> None:
    """Texts come sorted by length, features go back to their rows."""
    benchmark = benchmark_of("til", (2, 3, 2))
    strategy = on_text(benchmark, tiny)
    train(strategy, benchmark, 0, 1)
    data = benchmark.train_stream[2].dataset
    features, targets = strategy.masks.masked_features(data, strategy, [1, 0])
    strategy.model.eval()
    with torch.no_grad():
        for place, task in enumerate((1, 0)):
            alone = strategy.model.backbone.features(inputs(benchmark.train_stream[2]), task)
            torch.testing.assert_close(features[:, place], alone, atol=1e-5, rtol=0)
    assert targets.tolist() == list(data.targets)
    assert sorted(row for rows, _, _ in batches(data, strategy) for row in rows) == list(range(64))


def test_blocking_factors_are_those_of_a_plain_loop() -> None:
    """Tasks 0 and 2 are dissimilar to task 3, task 1 is similar to it."""
    strategy = build(tiny_images("til", (2, 2, 2, 2)), {3: [1]})
    masks = strategy.masks
    masks.gates.trained = [0, 1, 2]
    masks.gates.used.fill_(1)  # HAT's cumulative mask has no say
    strategy.model.transfers.similar[3] = [1]
    factors = masks.factors(3)
    widths = [site.width for site in masks.sites]
    both = [
        [float(max(a > 0, b > 0)) for a, b in zip(e0.tolist(), e2.tolist(), strict=True)]
        for e0, e2 in zip(masks.gates.embeddings[0].split(widths), masks.gates.embeddings[2].split(widths), strict=True)
    ]
    for layer, site in enumerate(masks.sites):
        weight = factors[site.module.weight].flatten(1).tolist()  # type: ignore[index,union-attr,operator]
        bias = factors[site.module.bias].tolist()  # type: ignore[index,union-attr,operator]
        assert bias == [1 - a for a in both[layer]]
        for row, a in zip(weight, both[layer], strict=True):
            before = [1.0] * len(row) if layer == 0 else both[layer - 1]
            assert row == [1 - min(a, b) for b in before]


@pytest.mark.parametrize("backbone", ["cnn", "bert"])
def test_dissimilar_tasks_do_not_move_and_similar_ones_do(backbone: str, benchmark_of: Any, tiny: str) -> None:
    if backbone == "cnn":
        benchmark = tiny_images("til", (2, 2, 2))
        strategy = build(benchmark, {2: [1]})
    else:
        benchmark = benchmark_of("til", (2, 2, 2))
        strategy = on_text(benchmark, tiny, backbone, {2: [1]})
    train(strategy, benchmark, 0, 1)
    masks, model = strategy.masks, strategy.model
    with torch.no_grad():
        for task in (0, 1):  # masks that have units of their own
            masks.gates.embeddings[task].copy_(torch.randn_like(masks.gates.used))
    model.eval()
    x = inputs(benchmark.test_stream[0])
    with torch.no_grad():
        logits = [model(x, task) for task in (0, 1)]
    before = {p: p.detach().clone() for site in masks.sites for p in site.module.parameters()}
    train(strategy, benchmark, 2)
    first, second = (masks.gates.mask(task).split([site.width for site in masks.sites]) for task in (0, 1))
    for site, own, other in zip(masks.sites, first, second, strict=True):
        bias = site.module.bias
        assert isinstance(bias, nn.Parameter)
        assert torch.equal(bias[own > 0], before[bias][own > 0])
        lifted = (own == 0) & (other > 0)
        assert (bias[lifted] != before[bias][lifted]).any()
    for p, factor in masks.factors(2).items():
        still = (factor == 0).expand_as(p)
        assert torch.equal(p[still], before[p][still])
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x, 0), logits[0], atol=1e-6, rtol=0)
        assert not torch.allclose(model(x, 1), logits[1], atol=1e-4)


@pytest.mark.parametrize("scenario", ["til", "dil"])
def test_the_loss_is_that_of_the_equations_and_reaches_everything(scenario: str) -> None:
    benchmark = tiny_images(scenario, (2, 2, 2))
    seen: list[int] = []

    def see(strategy: CAT) -> None:
        task = strategy.experience.current_experience
        seen.append(task)
        model, gates = strategy.model, strategy.masks.gates
        gates.override = None
        with torch.no_grad():
            x, y = strategy.mb_x, strategy.mb_y
            expected = F.cross_entropy(model.heads(model.backbone.features(x, task), task), y)
            expected = expected + 0.75 * sparsity(gates.training_gates(), gates.used)
            if task == 2:
                features = torch.stack([model.backbone.features(x, k) for k in (0, 1)])
                expected = expected + 0.3 * F.cross_entropy(model.transfers.of(2)(features), y)
        gates.override = None if scenario == "til" else task
        torch.testing.assert_close(strategy.loss.detach().squeeze(), expected)
        parts = [strategy.model.heads, *([model.transfers.of(2)] if task == 2 else [])]
        for part in parts:
            own = part.linears[task] if hasattr(part, "linears") else part
            assert all(p.grad is not None and bool(p.grad.any()) for p in own.parameters())
        assert bool(gates.embeddings[task].grad.any())
        assert all(gates.embeddings[k].grad is None for k in range(task))

    strategy = build(benchmark, {2: [0, 1]}, plugins=[Spy("after_backward", see)], model_weight=0.3, train_epochs=1)
    for module in strategy.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for task in range(3):
        if task == 2:
            add = strategy.model.transfers.add_task

            def without_dropout(task: int, add: Any = add) -> None:
                add(task)
                layer = strategy.model.transfers.of(task)
                layer.dropout.p = layer.attention.dropout = 0.0

            strategy.model.transfers.add_task = without_dropout  # type: ignore[method-assign]
        strategy.model.zero_grad()  # what earlier tasks left
        train(strategy, benchmark, task)
    assert set(seen) == {0, 1, 2}
    assert strategy.model.transferred is None


def test_the_weights_of_similar_tasks_learn_from_the_attention_their_masks_do_not() -> None:
    benchmark = tiny_images("til", (2, 2, 2))
    strategy = build(benchmark, {2: [0, 1]})
    train(strategy, benchmark, 0, 1)
    model, gates = strategy.model, strategy.masks.gates
    gates.begin(2)
    model.transfers.begin(2, [0, 1])
    model.train().zero_grad()
    transferred = model.both(inputs(benchmark.train_stream[2])[:8], 2)[1]
    F.cross_entropy(transferred, torch.zeros(8, dtype=torch.long)).backward()
    assert all(bool(site.module.weight.grad.any()) for site in strategy.masks.sites)  # type: ignore[union-attr,operator]
    assert all(e.grad is None or not e.grad.any() for e in gates.embeddings)


def on_text(
    benchmark: Any,
    tiny: str,
    backbone: str = "bert_frozen",
    similar: dict[int, list[int]] | None = None,
    **options: Any,
) -> CAT:
    torch.manual_seed(1)
    sizes = {"filters": 12, "layers": 2, "hidden": 24, "dropout": 0.1} if backbone == "bert_frozen" else {}
    model = build_model(benchmark, backbone=backbone, encoder=tiny, **sizes)
    rate = 1e-2 if backbone == "bert_frozen" else 3e-3
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    settings = {"train_mb_size": 8, "train_epochs": 2, "eval_mb_size": 16, "schedule": "linear", "clip_norm": 1.0}
    settings["gate_mean"] = 2.0 if backbone == "bert" else 0.0
    strategy = CAT(model=model, optimizer=optimizer, readout_steps=20, **{**settings, **options})
    return finds(strategy, similar)


@pytest.mark.parametrize("backbone", ["bert_frozen", "bert"])
@pytest.mark.parametrize("scenario", ["til", "dil"])
def test_three_tasks_and_the_state_of_the_model(scenario: str, backbone: str, benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of(scenario, (2, 3, 2) if scenario == "til" else (2, 2, 2))
    losses: list[float] = []
    spy = Spy("after_training_iteration", lambda s: losses.append(float(s.loss.detach())))
    strategy = on_text(benchmark, tiny, backbone, plugins=[spy], train_epochs=6)
    train(strategy, benchmark, 0, 1)  # what it finds itself
    assert strategy.model.transfers.similar[0] == [] and strategy.model.transfers.similar[1] in ([], [0])
    strategy.masks.similar_tasks = lambda s, task, previous: previous  # type: ignore[method-assign]
    train(strategy, benchmark, 2)
    assert strategy.model.transfers.similar[2] == [0, 1]
    steps = len(losses) // 3
    for run in (losses[:steps], losses[steps : 2 * steps], losses[2 * steps :]):
        assert sum(run[-8:]) < sum(run[:8])
    transfers = strategy.model.transfers
    optimized = {id(p) for group in strategy.optimizer.param_groups for p in group["params"]}
    layer = transfers.of(2)
    assert layer is not None and all(id(p) in optimized for p in layer.parameters())
    kept = strategy.kept_bytes(3)
    assert {"parameters", "gates", "attention", "initial"} <= set(kept)
    assert kept["attention"] >= 6 + 4 * sum(p.numel() for p in layer.parameters())

    transfers.chosen[2] = True
    x = inputs(benchmark.test_stream[2])
    strategy.model.eval()
    labels = 2 if scenario == "til" else 0
    with torch.no_grad():
        torch.testing.assert_close(strategy.model(x, labels), strategy.model.both(x, 2)[1])
    strategy.options = strategy.options.model_copy(update={"inference": "entropy"})
    strategy.eval(benchmark.test_stream)

    fresh = on_text(benchmark, tiny, backbone).model
    fresh.load_state_dict(strategy.model.state_dict())
    copied = copy.deepcopy(strategy.model)
    strategy.model.eval(), fresh.eval(), copied.eval()
    for other in (fresh, copied):
        assert torch.equal(strategy.model(x, labels), other(x, labels))
        assert other.transfers.similar == strategy.model.transfers.similar


def test_the_better_head_on_validation_data_is_chosen_and_remembered() -> None:
    benchmark = tiny_images("til", (2, 2, 2))
    strategy = build(benchmark, {1: [0], 2: [0, 1]})
    found = {1: [0.5, 0.75], 2: [0.75, 0.75]}
    strategy.masks.validation_accuracies = lambda s, task: found[task]  # type: ignore[method-assign]
    train(strategy, benchmark, 0, 1, 2)
    assert strategy.model.transfers.chosen == [False, True, False]

    strategy = build(benchmark, {1: [0]})
    train(strategy, benchmark, 0)
    accuracies: list[list[float]] = []
    original = strategy.masks.validation_accuracies
    strategy.masks.validation_accuracies = lambda s, task: accuracies.append(original(s, task)) or accuracies[-1]  # type: ignore[method-assign,func-returns-value]
    train(strategy, benchmark, 1)
    data = data_for(benchmark.train_stream[1])[1]
    x, y = torch.stack([data[i][0] for i in range(len(data))]), torch.tensor(list(data.targets))
    strategy.model.eval()
    with torch.no_grad():
        expected = [float((logits.argmax(1) == y).float().mean()) for logits in strategy.model.both(x, 1)]
    assert accuracies == [pytest.approx(expected)]
    assert strategy.model.transfers.chosen[1] == (expected[1] > expected[0])


@pytest.mark.parametrize("backbone", ["bert_frozen", "bert"])
def test_the_reference_starts_from_the_initial_weights_and_shares_what_is_frozen(
    backbone: str, benchmark_of: Any, tiny: str
) -> None:
    benchmark = benchmark_of("til", (2, 2))
    strategy = on_text(benchmark, tiny, backbone)
    initial = strategy.masks.initial
    before = {name: p.detach().clone() for name, p in initial.named_parameters()}
    for name, p in strategy.model.named_parameters():
        if name in before:
            assert torch.equal(p, before[name])
            assert (p is dict(initial.named_parameters())[name]) == (not p.requires_grad)
    own = [p for p in initial.parameters() if p.requires_grad]
    assert strategy.masks.kept_bytes() == {"initial": 4 * sum(p.numel() for p in own)}
    if backbone == "bert":  # those of the pretrained encoder
        pretrained = dict(AutoModel.from_pretrained(tiny).named_parameters())
        for name, p in initial.backbone.encoder.model.named_parameters():  # type: ignore[union-attr,operator]
            assert torch.equal(p, pretrained[name])
    train(strategy, benchmark, 0, 1)
    assert all(torch.equal(p, before[name]) for name, p in initial.named_parameters())


def test_under_avalanches_own_naive() -> None:
    benchmark = tiny_images("til", (2, 2, 2))
    torch.manual_seed(1)
    model = TransferModel(build_model(benchmark, hidden=32), attention_heads=5)
    plugin = CATPlugin(model, readout_steps=5)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=8,
        eval_mb_size=16,
        plugins=[plugin],
        evaluator=None,
    )
    train(strategy, benchmark, 0, 1)  # with what it finds itself
    plugin.similar_tasks = lambda s, task, previous: previous[1:]  # type: ignore[method-assign,assignment]
    before = {p: p.detach().clone() for site in plugin.sites for p in site.module.parameters()}
    train(strategy, benchmark, 2)
    for p, factor in plugin.factors(2).items():
        still = (factor == 0).expand_as(p)
        assert torch.equal(p[still], before[p][still])
    layer = model.transfers.of(2)
    assert layer is not None and layer.head.weight.grad is not None and bool(layer.head.weight.grad.any())
