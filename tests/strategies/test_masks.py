"""What HAT and CTR promise: exact blocking, unchanged logits, outputs that do not depend on the batch."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training import Naive
from torch import nn

from nlpcl.config.resolve import resolve
from nlpcl.config.spec import RunSpec
from nlpcl.models import build_model
from nlpcl.models.adapters import NORMS, BertAdapter
from nlpcl.models.base import ContinualModel
from nlpcl.registry import strategies
from nlpcl.strategies._shared.masks import annealed_scale, least_entropy, site_factors
from nlpcl.strategies.capsules.bcl import BCL
from nlpcl.strategies.capsules.ctr import CTR
from nlpcl.strategies.cat.cat import CAT
from nlpcl.strategies.classic import CLASSIC
from nlpcl.strategies.hat import HAT, HATPlugin
from nlpcl.strategies.kan import KAN


def build(cls: Any, benchmark: Any, tiny: str, **options: Any) -> Any:
    torch.manual_seed(1)
    model = build_model(benchmark, encoder=tiny, adapter_size=8)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    return cls(
        model=model,
        optimizer=optimizer,
        train_mb_size=8,
        train_epochs=3,
        schedule="linear",
        clip_norm=1.0,
        **options,
    )


def norms(model: ContinualModel) -> list[Any]:
    return [module for name, module in model.backbone.named_modules() if NORMS.fullmatch(name)]


def logits_of(model: ContinualModel, experience: Any, task: int, size: int = 32) -> torch.Tensor:
    model.eval()
    x = torch.stack([experience.dataset[i][0] for i in range(len(experience.dataset))])
    with torch.no_grad():
        return torch.cat([model(part, task) for part in x.split(size)])


def test_annealing_reaches_smax_in_the_last_batch() -> None:
    scales = [annealed_scale(b, 5, 400.0) for b in range(1, 6)]
    assert scales[0] == 1 / 400
    assert scales[-1] == 400.0
    assert all(a < b for a, b in pairwise(scales))
    assert annealed_scale(1, 1, 400.0) == 400.0


@pytest.mark.parametrize("cls", [HAT, CTR, BCL])
def test_blocked_weights_do_not_move_at_all(cls: Any, benchmark_of: Any, tiny: str) -> None:
    """Where the factor is 0 the weights after task 2 are those before it, bit for bit, with weight decay on."""
    benchmark = benchmark_of("til", (2, 3, 2))
    strategy = build(cls, benchmark, tiny)
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    masks = strategy.masks
    factors = masks.factors(1)
    before = {p: p.detach().clone() for p in factors}
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    moved = blocked = 0
    for p, factor in factors.items():
        still = (factor == 0).expand_as(p)
        assert torch.equal(p[still], before[p][still])
        blocked += int(still.sum())
        moved += int((p[~still] != before[p][~still]).sum())
    assert blocked > 100
    assert moved > 100
    assert all(not norm.weight.requires_grad for norm in norms(strategy.model))


def test_hat_keeps_the_first_task_to_1e_6(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 3, 2))
    strategy = build(HAT, benchmark, tiny)
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    before = logits_of(strategy.model, benchmark.test_stream[0], 0)
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    strategy.train(benchmark.train_stream[2], eval_streams=[])
    torch.testing.assert_close(logits_of(strategy.model, benchmark.test_stream[0], 0), before, atol=1e-6, rtol=0)
    assert all(share < 0.05 for share in strategy.masks.undecided)


def test_old_gates_and_other_heads_stay(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 3))
    strategy = build(HAT, benchmark, tiny)
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    gates, heads = strategy.masks.gates, strategy.model.heads.linears
    before = [gates.embeddings[0].clone(), heads[0].weight.clone(), heads[0].bias.clone()]
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    for kept, now in zip(before, [gates.embeddings[0], heads[0].weight, heads[0].bias], strict=True):
        assert torch.equal(kept, now)


@pytest.mark.parametrize("cls", [HAT, CTR, BCL])
def test_outputs_do_not_depend_on_the_batch(cls: Any, benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 2))
    strategy = build(cls, benchmark, tiny)
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[])
    for task in (0, 1):
        test = benchmark.test_stream[task]
        alone, together = (logits_of(strategy.model, test, task, size) for size in (1, 32))
        torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)
        assert torch.equal(together, logits_of(strategy.model, test, task))
        padded = strategy.model.backbone.encoder
        padded.padding = "fixed"
        torch.testing.assert_close(logits_of(strategy.model, test, task), together, atol=1e-5, rtol=0)
        padded.padding = "dynamic"


def test_mixed_task_batch_equals_each_task_alone(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 2))
    for cls in (HAT, CTR, BCL):
        strategy = build(cls, benchmark, tiny)
        for experience in benchmark.train_stream:
            strategy.train(experience, eval_streams=[])
        model = strategy.model.eval()
        data = [benchmark.test_stream[i % 2].dataset[i][0] for i in range(6)]
        tasks = torch.tensor([0, 1] * 3)
        with torch.no_grad():
            mixed = model(torch.stack(data), tasks)
            for row, x in enumerate(data):
                torch.testing.assert_close(mixed[row], model(x[None], row % 2)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("cls", [CTR, BCL])
def test_maps_of_later_tasks_stay_at_their_initial_values(cls: Any, benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 2, 2))
    strategy = build(cls, benchmark, tiny)
    adapter = strategy.model.backbone.adapters()[0]
    before = adapter.tasks.weight.detach().clone()
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    assert not torch.equal(adapter.tasks.weight[0], before[0])
    assert torch.equal(adapter.tasks.weight[1:], before[1:])
    after = adapter.tasks.weight.detach().clone()
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    assert not torch.equal(adapter.tasks.weight[0], after[0])  # earlier maps go on learning
    assert not torch.equal(adapter.tasks.weight[1], after[1])
    assert torch.equal(adapter.tasks.weight[2], before[2])


def test_routing_has_a_learning_rate_of_its_own(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 2))
    strategy = build(CTR, benchmark, tiny, routing_learning_rate=1e-4)
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    rates = {id(p): group["initial_lr"] for group in strategy.optimizer.param_groups for p in group["params"]}
    for adapter in strategy.model.backbone.adapters():
        slow = [*adapter.tasks.parameters(), *adapter.routing.parameters()]
        assert {rates[id(p)] for p in slow} == {1e-4}
        assert {rates[id(p)] for p in adapter.down.parameters()} == {strategy._template.defaults["lr"]}
    assert rates[id(strategy.masks.gates.embeddings[0])] == 0.05


def test_plugin_blocks_under_avalanches_own_naive(benchmark_of: Any, tiny: str) -> None:
    """There the optimizer keeps its momentum and decays everything; blocked entries still do not move."""
    benchmark = benchmark_of("til", (2, 2))
    torch.manual_seed(1)
    model = build_model(benchmark, encoder=tiny, adapter_size=8)
    plugin = HATPlugin(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    strategy = Naive(
        model=model,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=8,
        train_epochs=2,
        plugins=[plugin],
        evaluator=None,
    )
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    factors = site_factors(plugin.sites, plugin.gates.by_site(plugin.gates.used))
    before = {p: p.detach().clone() for p in factors}
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    for p, factor in factors.items():
        still = (factor == 0).expand_as(p)
        assert torch.equal(p[still], before[p][still])


def test_parity_keeps_soft_masks_and_trains_layer_norms(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 2))
    strategy = build(HAT, benchmark, tiny, parity=True)
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[])
    gates = strategy.masks.gates
    torch.testing.assert_close(gates.mask(0), torch.sigmoid(400 * gates.embeddings[0].detach()))
    assert all(norm.weight.requires_grad for norm in norms(strategy.model))


class OneStep(SupervisedPlugin[Any]):
    """Notes parameters and gradients before the first step of the second task, and the parameters after it."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[str, tuple[torch.Tensor, torch.Tensor | None]] = {}
        self.after: dict[str, torch.Tensor] = {}

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.experience.current_experience == 1 and not self.before:
            named = strategy.model.named_parameters()
            self.before = {n: (p.detach().clone(), None if p.grad is None else p.grad.clone()) for n, p in named}

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        if self.before and not self.after:
            self.after = {name: p.detach().clone() for name, p in strategy.model.named_parameters()}


WITH_GATES = [(HAT, "bert_adapter"), (CTR, "bert_adapter"), (BCL, "bert_adapter"), (CLASSIC, "bert_adapter")]
WITH_GATES += [(HAT, "bert"), (CAT, "bert_frozen"), (KAN, "bert_frozen")]


@pytest.mark.parametrize(("cls", "backbone"), WITH_GATES)
def test_parity_starts_and_trains_gates_like_weights(cls: Any, backbone: str, benchmark_of: Any, tiny: str) -> None:
    """One step against a plain loop: the optimizer's rate and decay, each site's gradient clipped by itself."""
    benchmark = benchmark_of("dil" if cls is CLASSIC else "til", (2, 2), 16)
    torch.manual_seed(1)
    shape = {"bert_adapter": {"adapter_size": 64}, "bert": {}, "bert_frozen": {"layers": 2}}[backbone]
    model = build_model(benchmark, backbone, tiny, **({"net": "gru"} if cls is KAN else shape))
    rate, decay, clip = 0.5, 0.1, 0.02
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=decay)
    step = OneStep()
    strategy = cls(
        model=model, optimizer=optimizer, train_mb_size=8, clip_norm=clip, parity=True, plugins=[step], smax=20.0
    )
    gates = strategy.masks.gates
    spread = torch.cat([e.detach() for e in gates.embeddings][1:]).std()
    expected = 1.0 if backbone == "bert_frozen" else 0.02
    assert float(spread) == pytest.approx(expected, rel=0.25)
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[])

    widths, clipped = list(gates.widths.values()), 0
    embeddings = {id(e): k for k, e in enumerate(gates.embeddings)}
    for name, p in strategy.model.named_parameters():
        (before, gradient), after = step.before[name], step.after[name]
        if id(p) not in embeddings:
            continue
        if embeddings[id(p)] == 0:
            assert torch.equal(after, before)
            continue
        assert gradient is not None
        parts = []
        for e, g in zip(before.split(widths), gradient.split(widths), strict=True):
            norm = float(g.norm())
            clipped += norm > clip
            parts.append((e - rate * (g * min(1.0, clip / (norm + 1e-6)) + decay * e)).clamp(-6, 6))
        torch.testing.assert_close(after, torch.cat(parts))
    assert clipped


def test_what_is_said_of_gates_wins_over_parity(benchmark_of: Any, tiny: str) -> None:
    strategy = build(HAT, benchmark_of("til", (2, 2)), tiny, parity=True, gate_init=0.5, gate_learning_rate=0.2)
    gates = strategy.masks.gates
    assert float(gates.embeddings[0].detach().std()) == pytest.approx(0.5, rel=0.2)
    assert strategy.masks.parameter_group(strategy)["lr"] == 0.2


@pytest.mark.parametrize(
    ("strategy", "backbone", "init"),
    [("hat", "bert_adapter", 0.02), ("hat", "bert", 0.02), ("hat", "bert_frozen", 1.0), ("cat", "w2v", 1.0)]
    + [(name, "bert_adapter", 0.02) for name in ("ctr", "bcl", "classic")]
    + [("kan", "bert_frozen", 1.0)],
)
def test_a_spec_with_parity_says_how_gates_start_and_train(strategy: str, backbone: str, init: float) -> None:
    asked: dict[str, Any] = {"benchmark": "asc", "strategy": strategy, "backbone": backbone}
    asked["scenario"] = strategies.get(strategy).scenarios[0]
    options = resolve(RunSpec.parse({**asked, "options": {"parity": True}})).options or {}
    assert (options["gate_init"], options["gate_mean"], options["gate_learning_rate"]) == (init, 0.0, None)
    assert options.get("routing_learning_rate") is None
    given = {"parity": True, "gate_init": 0.3, "gate_learning_rate": 0.1}
    options = resolve(RunSpec.parse({**asked, "options": given})).options or {}
    assert {name: options[name] for name in given} == given


def test_domain_incremental_inference(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("dil", (2, 2))
    strategy = build(HAT, benchmark, tiny, inference="last")
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[])
    assert strategy.masks.gates.override == 1
    strategy.options = HAT.options_type(inference="entropy")
    strategy.eval(benchmark.test_stream)
    assert strategy.masks.gates.override == 1


def test_least_entropy_chooses_for_each_sample() -> None:
    sure, unsure = torch.tensor([5.0, 0.0]), torch.tensor([0.1, 0.0])
    logits = torch.stack([torch.stack([sure, unsure]), torch.stack([unsure, sure])])
    torch.testing.assert_close(least_entropy(logits), torch.stack([sure, sure]))


def test_methods_that_shape_layers_need_our_model(tiny: str) -> None:
    linear = nn.Linear(2, 2)
    with pytest.raises(TypeError, match="ContinualModel"):
        HAT(model=linear, optimizer=torch.optim.SGD(linear.parameters(), lr=0.1))
    assert BertAdapter(tiny, adapter_size=4).sites()
