"""ACL against its equations, written as plain loops."""

from __future__ import annotations

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training import Naive
from torch import nn
from torch.nn import functional as F

from nlpcl.errors import UsageError
from nlpcl.models import build_model
from nlpcl.strategies.acl import (
    ACL,
    ACLPlugin,
    Repeated,
    SharedPrivate,
    discriminator,
    fresh_copy,
    overlap,
    reverse_gradient,
)
from tests.helpers.images import tiny_images
from tests.helpers.plugins import plugin_of
from tests.helpers.training import accuracy, train


def build(benchmark: Any, backbone: str = "mlp", **options: Any) -> Any:
    torch.manual_seed(1)
    model = build_model(benchmark, backbone, hidden=24)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    common = {"model": model, "optimizer": optimizer, "train_mb_size": 8}
    return ACL(**common, **{"train_epochs": 1, "memory_share": 0.5, **options})


def test_overlap_is_the_mean_squared_cosine_of_all_pairs() -> None:
    torch.manual_seed(0)
    shared, private = torch.randn(4, 6), torch.randn(4, 6)
    pairs = [(s @ p / s.norm() / p.norm()) ** 2 for s in shared for p in private]
    torch.testing.assert_close(overlap(shared, private), torch.stack(pairs).mean())
    assert overlap(torch.eye(6)[:3], torch.eye(6)[3:]) == 0
    torch.testing.assert_close(overlap(torch.ones(2, 6), 3 * torch.ones(2, 6)), torch.tensor(1.0))


def test_gradient_is_turned_round() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    out = reverse_gradient(x)
    assert torch.equal(out, x)
    factor = torch.randn(3, 2)
    torch.testing.assert_close(torch.autograd.grad((factor * out).sum(), x)[0], -factor)


def test_a_copy_has_weights_of_its_own_and_may_be_narrow() -> None:
    benchmark = tiny_images("til", (2, 2))
    for backbone in ("mlp", "cnn"):
        shared = build_model(benchmark, backbone, hidden=24).backbone
        copy, narrow = fresh_copy(shared), fresh_copy(shared, 5)
        assert all(not torch.equal(p, q) for p, q in zip(shared.parameters(), copy.parameters(), strict=True))
        assert narrow.linears[0].out_features == 5  # type: ignore[index,union-attr]
        assert narrow.features(torch.rand(2, 1, 16, 16), 0).shape == (2, 24)


@pytest.mark.parametrize("scenario", ["til", "dil"])
def test_the_loss_of_a_step_is_that_of_the_paper(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value and gradient, dropout off; the discriminator's part of the gradient has the opposite sign."""
    benchmark = tiny_images(scenario, (2, 3, 2) if scenario == "til" else (2, 2, 2))
    strategy = build(benchmark, adversarial=0.7, orthogonality=0.3)
    for module in strategy.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    train(strategy, benchmark, 2)
    checked = []
    ours, til = ACLPlugin.before_backward, scenario == "til"

    def spy(plugin: Any, strategy: Any, **kwargs: Any) -> None:
        state = plugin.memory.generator.get_state()
        ours(plugin, strategy)
        if checked:
            return
        model, n = deepcopy(strategy.model), len(strategy.mb_y)
        slots = torch.randperm(len(plugin.memory), generator=torch.Generator().set_state(state))[:32]
        old = plugin.memory.at(slots)
        tasks = [2] * n + plugin.memory.tasks[slots].tolist()
        assert set(tasks) == {0, 1, 2}
        losses, shared, private = [], [], []
        for x, y, task in zip([*strategy.mb_x, *old.x], [*strategy.mb_y, *old.y], tasks, strict=True):
            net = model.backbone.private.nets[task if til else 0]
            shared.append(model.backbone.shared.features(x[None], 0)[0])
            private.append(net.features(x[None], 0)[0])
            head = model.heads.linears[task] if til else model.heads.linear
            losses.append(F.cross_entropy(head(torch.cat([private[-1], shared[-1]])), y))
        targets = torch.tensor(tasks) + 1
        verdicts = [F.cross_entropy(plugin.discriminator(s), t) for s, t in zip(shared, targets, strict=True)]
        pairs = torch.stack([F.cosine_similarity(s, p, dim=0) ** 2 for s in shared for p in private])
        learnt, fooled = torch.stack(losses).mean() + 0.3 * pairs.mean(), torch.stack(verdicts).mean()
        checked.append((strategy.loss.detach().squeeze(), (learnt + 0.7 * fooled).detach()))
        for name, p in strategy.model.named_parameters():
            if not p.requires_grad:  # a net or a head of another task
                assert til and ".nets.2." not in name and "heads.linears.2." not in name
                continue
            found = torch.autograd.grad(strategy.loss, p, retain_graph=True)[0]
            same = model.get_parameter(name)
            down, up = (
                torch.autograd.grad(loss, same, retain_graph=True, materialize_grads=True)[0]
                for loss in (learnt, fooled)
            )
            checked.append((found, down - 0.7 * up))

    monkeypatch.setattr(ACLPlugin, "before_backward", spy)
    strategy.train(benchmark.train_stream[2], eval_streams=[])
    assert len(checked) == 1 + 2 + 2 * 4  # weights and biases of the head, and of two layers of each encoder
    for found, expected in checked:
        torch.testing.assert_close(found, expected)


def test_discriminator_learns_tasks_and_noise_once_in_five_steps() -> None:
    benchmark = tiny_images("til", (2, 2))
    strategy = build(benchmark)
    steps: list[int] = []
    plugin: Any = plugin_of(strategy, ACLPlugin)
    ours = plugin.train_discriminator
    plugin.train_discriminator = lambda s: (steps.append(plugin._steps), ours(s))
    train(strategy, benchmark, 2)
    assert steps == [5, 10, 15, 20, 25, 30] * 2  # 48 images in batches of 8

    plugin.discriminator = net = discriminator(24, 3)
    plugin._optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    shared, tasks = torch.randn(4, 24), torch.tensor([1, 2, 2, 1])
    plugin._real = shared, tasks
    reference = deepcopy(net)
    torch.manual_seed(5)
    plugin.options = plugin.options.model_copy(update={"discriminator_learning_rate": 0.1})
    ours(strategy)
    torch.manual_seed(5)
    noise = torch.randn(4, 24)
    loss = F.cross_entropy(reference(shared), tasks) + F.cross_entropy(reference(noise), torch.tensor([0] * 4))
    for p, q, g in zip(
        net.parameters(), reference.parameters(), torch.autograd.grad(loss, list(reference.parameters())), strict=True
    ):
        torch.testing.assert_close(p, q - 0.1 * g)
    assert not any(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize(
    ("settings", "factors"),
    [
        # Six mini-batches of five steps; a step of the discriminator has the rate of the one before it.
        ({"schedule": "linear", "warmup": 0.5}, [5 / 15, 10 / 15, 1, 11 / 16, 6 / 16, 1 / 16]),
        ({}, [1.0] * 6),
    ],
)
def test_the_discriminator_follows_schedule_and_clipping(settings: Any, factors: list[float]) -> None:
    benchmark = tiny_images("til", (2, 2))
    torch.manual_seed(1)
    model = build_model(benchmark, "mlp", hidden=24)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    moved: list[tuple[float, float]] = []

    class Watcher(SupervisedPlugin[Any], supports_distributed=False):  # type: ignore[call-arg]
        """Stands before the method's own plugin, so it sees what the last step moved one mini-batch later."""

        def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            net = plugin_of(strategy, ACLPlugin).discriminator
            self.before = [p.detach().clone() for p in net.parameters()]

        def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            self.look(strategy)

        after_training_epoch = before_training_iteration

        def look(self, strategy: Any) -> None:
            if strategy.clock.train_exp_iterations and strategy.clock.train_exp_iterations % 5 == 0:
                pairs = zip(self.before, plugin_of(strategy, ACLPlugin).discriminator.parameters(), strict=True)
                norm = float(torch.cat([(q - p).flatten() for p, q in pairs]).norm())
                moved.append((norm, plugin_of(strategy, ACLPlugin)._optimizer.param_groups[0]["lr"]))

    options: Any = {"train_mb_size": 8, "clip_norm": 1e-3, "discriminator_learning_rate": 0.5, **settings}
    strategy = ACL(model=model, optimizer=optimizer, plugins=[Watcher()], **options)
    train(strategy, benchmark, 1)
    assert [rate for _, rate in moved] == pytest.approx([0.5 * factor for factor in factors])
    assert [norm for norm, _ in moved] == pytest.approx([1e-3 * 0.5 * factor for factor in factors], rel=0.02)


def test_what_is_private_rests_after_its_task() -> None:
    benchmark = tiny_images("til", (2, 3, 2))
    strategy = train(build(benchmark, private_width=7), benchmark, 1)
    model, plugin = strategy.model, plugin_of(strategy, ACLPlugin)
    before = deepcopy(model.state_dict())
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    after = model.state_dict()
    same = {name for name, value in after.items() if torch.equal(value, before[name])}
    rest = {name for name in after if "nets.0." in name or "nets.2." in name or "heads.linears.0." in name}
    assert rest <= same and not any("shared" in name or "nets.1." in name for name in same)
    model.eval()
    with torch.no_grad():
        old = plugin.memory.at(torch.arange(len(plugin.memory)))
        assert set(old.task_labels.tolist()) == {0, 1}
        mine = model.backbone.private.features(old.x, old.task_labels)
        torch.testing.assert_close(plugin.memory.columns["private"][: len(plugin.memory)], mine)
        both = model(old.x, old.task_labels)
        for task, width in ((0, 2), (1, 3)):
            rows = old.task_labels == task
            torch.testing.assert_close(both[rows][:, :width], model(old.x, task)[rows])
    kept = strategy.kept_bytes(1)
    assert kept["private"] == 4 * (256 * 7 + 7 + 7 * 24 + 24)
    assert kept["memory_private"] == len(plugin.memory) * 24 * 4


@pytest.mark.parametrize(("backbone", "scenario"), [("mlp", "til"), ("mlp", "dil"), ("cnn", "til")])
def test_learns(backbone: str, scenario: str) -> None:
    benchmark = tiny_images(scenario, (2, 2))
    strategy = train(build(benchmark, backbone, train_epochs=4 if backbone == "mlp" else 2), benchmark, 2)
    til = scenario == "til"
    assert min(accuracy(strategy, test, task if til else 0) for task, test in enumerate(benchmark.test_stream)) > 0.8
    backbone_: SharedPrivate = strategy.model.backbone
    assert len(backbone_.private.nets) == (2 if til else 1)
    fresh = build(benchmark, backbone).model.eval()
    fresh.load_state_dict(strategy.model.state_dict())
    x = torch.rand(3, 1, 16, 16)
    assert torch.equal(fresh(x, 0), strategy.model(x, 0))


def test_runs_in_a_strategy_of_avalanche() -> None:
    benchmark = tiny_images("til", (2, 3))
    model = build_model(benchmark, "mlp", hidden=8)
    plugin = ACLPlugin(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(Naive(model=model, optimizer=optimizer, train_mb_size=16, plugins=[plugin]), benchmark, 2)
    assert all(p.isfinite().all() for p in model.parameters())


def test_repeats_batches_and_refuses_no_steps() -> None:
    batches = [[torch.tensor(0)], [torch.tensor(1)]]
    loader = Repeated(batches, 3)
    found = list(loader)
    assert len(loader) == 6 and [int(batch[0]) for batch in found] == [0, 0, 0, 1, 1, 1]
    assert found[0] is not found[1]
    for wrong in ({"shared_steps": 0}, {"adversarial": -1.0}, {"orthogonality": -0.1}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            build(tiny_images("til", (2, 2)), **wrong)


@pytest.mark.parametrize("scenario", ["til", "dil"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_trains_in_half_precision(precision: str, scenario: str) -> None:
    benchmark = tiny_images(scenario, (2, 2))
    strategy = train(build(benchmark, precision=precision, schedule="linear"), benchmark, 2)
    assert all(p.isfinite().all() for p in strategy.model.parameters())
    assert precision == "bf16" or strategy.scaler.get_scale() == 65536.0


def test_in_domain_incremental_learning_the_private_encoder_starts_afresh() -> None:
    benchmark = tiny_images("dil", (2, 2))
    strategy = train(build(benchmark), benchmark, 1)
    private, shared = strategy.model.backbone.private, strategy.model.backbone.shared
    before = [[p.detach().clone() for p in net.parameters()] for net in (private, shared)]
    plugin_of(strategy, ACLPlugin).before_train_dataset_adaptation(
        SimpleNamespace(experience=SimpleNamespace(current_experience=1))
    )
    assert not any(torch.equal(p, q) for p, q in zip(private.parameters(), before[0], strict=True))
    assert all(torch.equal(p, q) for p, q in zip(shared.parameters(), before[1], strict=True))
    assert "private" not in plugin_of(strategy, ACLPlugin).memory.columns
    assert strategy.kept_bytes(2)["memory_private"] == 0


def test_discriminator_is_new_for_each_task_and_has_an_optimizer_of_its_own() -> None:
    benchmark = tiny_images("til", (2, 2))
    strategy = train(build(benchmark, discriminator_learning_rate=0.02), benchmark, 1)
    plugin, first = plugin_of(strategy, ACLPlugin), plugin_of(strategy, ACLPlugin).discriminator
    assert first[-1].out_features == 2  # noise and one task
    train_groups = plugin._optimizer.param_groups
    assert type(plugin._optimizer) is torch.optim.AdamW and {group["lr"] for group in train_groups} == {0.02}
    assert {id(p) for group in train_groups for p in group["params"]} == {id(p) for p in first.parameters()}
    assert not {id(p) for p in strategy.model.parameters()} & {id(p) for p in first.parameters()}
    strategy.train(benchmark.train_stream[1], eval_streams=[])
    assert plugin.discriminator is not first and plugin.discriminator[-1].out_features == 3
