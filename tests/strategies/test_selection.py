"""Best epoch, plateau schedule, and losses that are not finite."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from avalanche.core import SupervisedPlugin
from torch.nn import functional as F

from nlpcl.errors import UsageError
from nlpcl.models import build_model
from nlpcl.strategies.mtl import MTL
from nlpcl.strategies.ncl import NCL
from nlpcl.training import early_stopping as _selection
from nlpcl.training.early_stopping import validation_loss
from tests.helpers.messages import refused


class Epochs(SupervisedPlugin[Any]):
    """Notes the parameters and the learning rate after each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters: list[list[torch.Tensor]] = []
        self.rates: list[float] = []

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.clock.train_epoch_iterations == len(strategy.dataloader) - 1:
            self.rates.append(strategy.optimizer.param_groups[0]["lr"])

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        self.parameters.append([p.detach().clone() for p in strategy.model.parameters()])


def trained(cls: Any, benchmark: Any, tiny: str, **options: Any) -> tuple[Any, Epochs]:
    torch.manual_seed(0)
    model = build_model(benchmark, encoder=tiny, adapter_size=8)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.009)
    epochs = Epochs()
    strategy = cls(model=model, optimizer=optimizer, train_mb_size=16, plugins=[epochs], **options)
    strategy.train(benchmark.train_stream if cls is MTL else benchmark.train_stream[0], eval_streams=[])
    return strategy, epochs


def losses_are(values: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    left = list(values)
    monkeypatch.setattr(_selection, "validation_loss", lambda strategy: left.pop(0))


@pytest.mark.parametrize(("losses", "best"), [([3.0, 1.0, 2.0, 1.0], 2), ([3.0, 2.0, 1.5, 1.0], 4), ([1.0, 2.0], 1)])
def test_the_epoch_with_the_lowest_loss_is_restored(
    losses: list[float], best: int, benchmark_of: Any, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses_are(losses, monkeypatch)
    strategy, epochs = trained(NCL, benchmark_of(), tiny, best_epoch=True, train_epochs=len(losses))
    assert strategy.early_stopping.best_epochs == [best]
    for p, kept in zip(strategy.model.parameters(), epochs.parameters[best - 1], strict=True):
        assert torch.equal(p, kept)
    moved = [not torch.equal(a, b) for a, b in zip(epochs.parameters[0], epochs.parameters[-1], strict=True)]
    assert any(moved)


def test_on_a_plateau_the_rate_falls_until_training_ends(
    benchmark_of: Any, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 0.009: two epochs without a lower loss divide it by 3; below 0.002 it is over."""
    losses = [5.0, 4.0, 4.5, 4.0, 3.0, 3.5, 3.1, 9.0, 9.0]
    losses_are(losses, monkeypatch)
    options = {"patience": 2, "plateau_factor": 3.0, "min_learning_rate": 0.002}
    strategy, epochs = trained(NCL, benchmark_of(), tiny, schedule="plateau", train_epochs=9, **options)
    assert epochs.rates == pytest.approx([0.009] * 4 + [0.003] * 3)  # stalled in epochs 3 and 4, and in 6 and 7
    assert strategy.early_stopping.best_epochs == [5]


def test_every_task_starts_at_the_full_rate(benchmark_of: Any, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first step, too, whatever the rate was lowered to in the task before."""
    losses_are([2.0, 3.0, 3.0, 1.0, 0.5, 0.4], monkeypatch)
    rates: list[float] = []

    class Rates(SupervisedPlugin[Any]):
        def before_update(self, strategy: Any, **kwargs: Any) -> None:
            rates.append(strategy.optimizer.param_groups[0]["lr"])

    benchmark = benchmark_of()
    torch.manual_seed(0)
    model = build_model(benchmark, encoder=tiny, adapter_size=8)
    options: Any = {"schedule": "plateau", "patience": 1, "train_epochs": 3, "train_mb_size": 64}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.9)
    strategy = NCL(model=model, optimizer=optimizer, plugins=[Rates()], **options)
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[])
    assert rates == pytest.approx([0.9, 0.9, 0.3, 0.9, 0.9, 0.9])


def test_validation_loss_is_the_mean_over_the_examples(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of()
    seen: list[tuple[float, float]] = []

    class Compare(SupervisedPlugin[Any]):
        def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
            state = torch.get_rng_state()
            found = validation_loss(strategy)
            assert torch.equal(torch.get_rng_state(), state) and strategy.model.training
            strategy.model.eval()
            data = benchmark.valid_stream[0].dataset
            losses = [F.cross_entropy(strategy.model(x[None], 0), torch.tensor([y])) for x, y, _ in data]
            strategy.model.train()
            seen.append((found, float(sum(losses) / len(losses))))

    torch.manual_seed(0)
    model = build_model(benchmark, encoder=tiny, adapter_size=8)
    strategy = NCL(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        plugins=[Compare()],
        eval_mb_size=5,
    )
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    assert len(seen) == 1 and seen[0][0] == pytest.approx(seen[0][1], rel=1e-5)


def test_joint_training_looks_at_all_validation_data(
    benchmark_of: Any, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    batches = _selection.numbered_batches
    monkeypatch.setattr(
        _selection, "numbered_batches", lambda data, *args: sizes.append(len(data)) or batches(data, *args)
    )
    benchmark = benchmark_of()
    trained(MTL, benchmark, tiny, best_epoch=True)
    assert sizes == [sum(len(experience.dataset) for experience in benchmark.valid_stream)]


def test_settings_out_of_range_and_missing_data(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of()
    with pytest.raises(UsageError, match="patience"):
        trained(NCL, benchmark, tiny, patience=0)
    with pytest.raises(UsageError, match="plateau_factor"):
        trained(NCL, benchmark, tiny, plateau_factor=1.0)
    benchmark.train_stream.benchmark = None
    with refused("validation"):
        trained(NCL, benchmark, tiny, best_epoch=True)


def test_a_loss_that_is_not_finite_ends_the_training(benchmark_of: Any, tiny: str) -> None:
    class Poison(SupervisedPlugin[Any]):
        def before_backward(self, strategy: Any, **kwargs: Any) -> None:
            if strategy.clock.train_exp_iterations == 5:
                strategy.loss = strategy.loss * float("nan")

    benchmark = benchmark_of()
    torch.manual_seed(0)
    model = build_model(benchmark, encoder=tiny, adapter_size=8)
    strategy = NCL(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        train_mb_size=16,
        train_epochs=9,
        plugins=[Poison()],
    )
    with refused("NCL 6"):
        strategy.train(benchmark.train_stream[0], eval_streams=[])
    assert strategy.clock.train_exp_iterations < 9 * len(strategy.dataloader) / 2
