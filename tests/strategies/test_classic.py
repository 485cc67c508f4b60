"""CLASSIC: its loss against the equations, the features it keeps, inference, and that nothing of it is idle."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nlpcl.models import build_model
from nlpcl.models.sizes import model_bytes
from nlpcl.strategies import classic
from nlpcl.strategies.classic import CLASSIC
from tests.helpers.loops import loop_attention, loop_contrast
from tests.helpers.training import Spy

TERMS = ("contrast", "sharing", "distillation")
OFF = dict.fromkeys(TERMS, 0.0)
CLASSES = {"til": (2, 3, 2), "dil": (2, 2, 2)}


def build(benchmark: Any, tiny: str, dropout: float = 0.1, rate: float = 1e-2, **options: Any) -> CLASSIC:
    torch.manual_seed(1)
    model = build_model(benchmark, backbone="bert_adapter", encoder=tiny, adapter_size=8, dropout=dropout)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.1)
    settings = {"train_mb_size": 8, "train_epochs": 2, "clip_norm": 1.0, **options}
    return CLASSIC(model=model, optimizer=optimizer, **settings)


def train(strategy: CLASSIC, benchmark: Any, *tasks: int) -> None:
    for task in tasks:
        strategy.train(benchmark.train_stream[task], eval_streams=[])


def inputs(experience: Any) -> Tensor:
    return torch.stack([experience.dataset[i][0] for i in range(len(experience.dataset))])


@pytest.mark.parametrize("scenario", ["til", "dil"])
def test_three_tasks_and_the_state_of_the_model(scenario: str, benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of(scenario, CLASSES[scenario])
    losses: list[float] = []
    plugins = [Spy("after_training_iteration", lambda s: losses.append(float(s.loss.detach())))]
    strategy = build(benchmark, tiny, plugins=plugins, train_epochs=6)
    attentions = strategy.attentions.attentions
    for task in range(3):
        before = [[p.detach().clone() for p in attention.parameters()] for attention in attentions]
        train(strategy, benchmark, task)
        for own, (attention, old) in enumerate(zip(attentions, before, strict=True), start=1):
            same = [torch.equal(p, q) for p, q in zip(attention.parameters(), old, strict=True)]
            assert not any(same) if own == task else all(same)
            optimized = {id(p) for group in strategy.optimizer.param_groups for p in group["params"]}
            assert all((id(p) in optimized) == (own == task) for p in attention.parameters())
    assert all(loss == loss for loss in losses)
    for run in (losses[:48], losses[48:96], losses[96:]):
        assert sum(run[-8:]) < sum(run[:8])
    assert strategy.eval([benchmark.test_stream[2]])

    state = strategy.model.state_dict()
    assert any(key.startswith("backbone.attentions.") for key in state)
    copied = copy.deepcopy(strategy.model)  # nothing of the last batch's graph is left in it
    for p in copied.parameters():
        torch.nn.init.zeros_(p)
    copied.load_state_dict(state)
    x = inputs(benchmark.test_stream[2])[:8]
    strategy.model.eval(), copied.eval()
    assert torch.equal(strategy.model(x, 2), copied(x, 2))
    stacked = torch.randn(2, 32, 3)
    assert torch.equal(strategy.model.backbone.attentions(stacked), copied.backbone.attentions(stacked))
    assert model_bytes(strategy.model, 3)["attention"] == 4 * (3 * (4 + 2) + 1 + 3 * (9 + 3) + 1)


@pytest.mark.parametrize("scenario", ["til", "dil"])
def test_the_loss_is_that_of_the_equations(scenario: str, benchmark_of: Any, tiny: str) -> None:
    """Without dropout every vector can be computed again: the whole loss but R, batch by batch."""
    benchmark = benchmark_of(scenario, CLASSES[scenario], n=16)
    weights = {"contrast": 0.3, "sharing": 0.5, "distillation": 0.7}
    seen = []

    @torch.no_grad()
    def see(strategy: CLASSIC) -> None:
        task = strategy.experience.current_experience
        y, before = strategy.mb_y, strategy.previous_features(strategy.mb_x).unbind(1) if task else ()
        h = strategy.mb_pooled.detach()
        z, labels, samples = F.normalize(h, dim=1), y.tolist(), list(range(len(y)))
        head = strategy.model.heads
        expected = float(F.cross_entropy(head(h, task), y)) + 0.3 * loop_contrast([z, z], labels, 0.7)
        if task:
            attention = strategy.attentions.attentions[task - 1]
            stacked = torch.stack([*before, h], dim=2)
            mixed = torch.stack([loop_attention(attention, sample).sum(dim=1) for sample in stacked])
            shared = float(F.cross_entropy(head(mixed, task), y))
            expected += 0.5 * (shared + loop_contrast([z, F.normalize(mixed, dim=1)], labels, 0.7))
            each = [loop_contrast([z, F.normalize(one, dim=1)], samples, 0.7) for one in before]
            expected += 0.7 * sum(each) / len(each)
        seen.append(task)
        assert float(strategy.loss.detach()) == pytest.approx(expected, abs=2e-4)

    # Callers' plugins come before the masks', which adds R.
    strategy = build(benchmark, tiny, 0.0, plugins=[Spy("before_backward", see)], temperature=0.7, **weights)
    strategy.train_epochs = 1
    for task in range(3):
        if task:  # so that the attention, which starts as the identity, has a say
            torch.nn.init.constant_(strategy.attentions.attentions[task - 1].gamma, 0.5)
        train(strategy, benchmark, task)
    assert seen == [0, 0, 1, 1, 2, 2]


def test_the_two_views_are_two_draws_of_the_dropout(
    benchmark_of: Any, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = []
    monkeypatch.setattr(classic, "contrastive_loss", lambda v, labels, tau: views.append(v.detach()) or v.sum() * 0)
    benchmark = benchmark_of("dil", (2, 2))
    train(build(benchmark, tiny, dropout=0.5), benchmark, 0)
    z, other = views[0]
    assert not torch.equal(z == 0, other == 0)
    both = (z != 0) & (other != 0)
    ratio = torch.where(both, z, torch.nan) / torch.where(both, other, torch.nan)  # of one pooled feature
    rows = both.sum(dim=1) > 1
    spread = ratio.nan_to_num(-torch.inf).amax(dim=1) - ratio.nan_to_num(torch.inf).amin(dim=1)
    torch.testing.assert_close(spread[rows], torch.zeros_like(spread[rows]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("scenario", ["til", "dil"])
def test_previous_features_travel_with_their_examples_and_do_not_change(
    scenario: str, benchmark_of: Any, tiny: str
) -> None:
    benchmark = benchmark_of(scenario, CLASSES[scenario])
    counts: list[int] = []

    def see(strategy: CLASSIC) -> None:
        task = strategy.experience.current_experience
        if task:
            assert strategy.mb_previous.shape == (8, task, 32)
            torch.testing.assert_close(
                strategy.mb_previous, strategy.previous_features(strategy.mb_x), atol=1e-5, rtol=0
            )
            assert strategy.model.training and strategy.masks.gates.override == (None if scenario == "til" else task)
        assert torch.equal(strategy.mb_task_id, torch.full((8,), task if scenario == "til" else 0))
        counts.append(task)

    strategy = build(benchmark, tiny, plugins=[Spy("after_training_iteration", see)], eval_mb_size=20)
    train(strategy, benchmark, 0)
    for task in (1, 2):
        strategy.previous = list(range(task))
        x = inputs(benchmark.train_stream[task])
        before = strategy.previous_features(x)
        if task == 2:  # the masks differ, and so do the features
            assert float((before[:, 0] - before[:, 1]).abs().max()) > 1e-3
        train(strategy, benchmark, task)
        torch.testing.assert_close(strategy.previous_features(x), before, atol=1e-6, rtol=0)
    assert counts == [0] * 16 + [1] * 16 + [2] * 16
    assert not hasattr(benchmark.train_stream[1].dataset, "previous")


def test_evaluation_within_a_training_leaves_it_alone(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("dil", (2, 2))
    state: list[Tensor] = []  # a data loader draws a seed, even if nothing is shuffled
    plugins = [
        Spy("before_eval", lambda s: state.append(torch.get_rng_state())),
        Spy("after_eval", lambda s: torch.set_rng_state(state[-1])),
    ]
    plain = build(benchmark, tiny)
    train(plain, benchmark, 0, 1)
    watched = build(benchmark, tiny, eval_every=1, inference="entropy", plugins=plugins)
    for experience in benchmark.train_stream:
        watched.train(experience, eval_streams=[benchmark.test_stream[0]])
    assert len(state) > 2
    for p, q in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_contrast_is_in_single_precision(precision: str, benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("dil", (2, 2))
    kinds = set()
    see = Spy("before_backward", lambda s: kinds.update({s.mb_pooled.dtype, s.mb_previous.dtype, s.loss.dtype}))
    strategy = build(benchmark, tiny, precision=precision, plugins=[see])
    train(strategy, benchmark, 0, 1)
    assert kinds == {torch.float32}
    assert all(torch.isfinite(p).all() for p in strategy.model.parameters())


@pytest.mark.parametrize("term", [*TERMS, None])
def test_every_term_teaches_adapters_and_gates(term: str | None, benchmark_of: Any, tiny: str) -> None:
    """With cross-entropy and sparsity off, one term alone moves them; with all terms off nothing does."""
    benchmark = benchmark_of("dil", (2, 2))
    moved: list[tuple[float, float]] = []

    def see(strategy: CLASSIC) -> None:
        weights = [site.module.weight.grad for site in strategy.masks.sites]
        embedding = strategy.masks.gates.embeddings[strategy.experience.current_experience].grad
        moved.append((max(float(w.abs().max()) for w in weights), float(embedding.abs().max())))  # type: ignore[union-attr, arg-type]

    factor = 1.0
    strategy = build(benchmark, tiny, criterion=lambda logits, y: factor * F.cross_entropy(logits, y), **OFF)
    train(strategy, benchmark, 0)
    strategy.plugins.append(Spy("after_backward", see))
    factor = 0.0
    strategy.masks.options = strategy.masks.options.model_copy(update={"lamb": 0.0})
    if term is not None:
        strategy.options = strategy.options.model_copy(update={term: 1.0})
    train(strategy, benchmark, 1)
    assert len(moved) == 16
    if term is None:
        assert moved == [(0.0, 0.0)] * 16
    else:  # later on gates may shut the few free units of so small a net
        assert min(moved[0]) > 1e-6 and all(gate > 1e-6 for _, gate in moved)


def test_the_weight_of_every_term_changes_the_result(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("dil", (2, 2))

    def result(**options: float) -> list[Tensor]:
        strategy = build(benchmark, tiny, train_epochs=1, **options)
        found = []
        for task in (0, 1):
            train(strategy, benchmark, task)
            found.append(torch.cat([p.detach().flatten() for p in strategy.model.parameters() if p.requires_grad]))
        return found

    ones = result()
    assert all(torch.equal(a, b) for a, b in zip(ones, result(), strict=True))
    for term in TERMS:
        first, second = result(**{term: 2.0})
        assert torch.equal(first, ones[0]) == (term != "contrast")  # the others begin with the second task
        assert not torch.equal(second, ones[1])
    assert not torch.equal(result(temperature=0.5)[0], ones[0])


def test_what_attention_makes_is_classified(benchmark_of: Any, tiny: str) -> None:
    """CKS has a cross-entropy of its own: its labels matter even where the contrast's do not."""
    benchmark = benchmark_of("dil", (2, 2))
    strategy = build(benchmark, tiny, dropout=0.0)
    differences = []

    def see(strategy: CLASSIC) -> None:
        with torch.no_grad():
            right = strategy.shared_knowledge()
            strategy.mbatch[1] = 1 - strategy.mb_y  # type: ignore[index]
            differences.append(float(right - strategy.shared_knowledge()))
            strategy.mbatch[1] = 1 - strategy.mb_y  # type: ignore[index]

    train(strategy, benchmark, 0)
    strategy.plugins.append(Spy("before_backward", see))
    train(strategy, benchmark, 1)
    assert any(abs(difference) > 1e-3 for difference in differences)


def test_least_entropy_is_chosen_sample_by_sample(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("dil", CLASSES["dil"])
    outputs: list[tuple[Tensor, Tensor]] = []
    plugins = [Spy("after_eval_forward", lambda s: outputs.append((s.mb_x.clone(), s.mb_output.clone())))]
    strategy = build(benchmark, tiny, inference="entropy", plugins=plugins, eval_mb_size=32)
    train(strategy, benchmark, 0, 1, 2)
    strategy.eval([benchmark.test_stream[0]])
    assert len(outputs) == 1
    gates, model, chosen = strategy.masks.gates, strategy.model.eval(), set()
    for x, found in zip(*outputs[0], strict=True):
        logits = []
        for task in range(3):
            gates.override = task
            logits.append(model(x[None], 0)[0].detach())
        entropies = [float(torch.distributions.Categorical(logits=one).entropy()) for one in logits]
        best = entropies.index(min(entropies))
        chosen.add(best)
        torch.testing.assert_close(found, logits[best], atol=1e-5, rtol=0)
    assert len(chosen) > 1


def test_parity_computes_previous_features_in_each_step(benchmark_of: Any, tiny: str) -> None:
    """Soft masks and trainable LayerNorms: they change while the task trains."""
    benchmark = benchmark_of("dil", (2, 2))
    features: list[Tensor] = []

    def see(strategy: CLASSIC) -> None:
        if strategy.previous:
            fresh = strategy.previous_features(strategy.mb_x)
            assert torch.equal(strategy.mb_previous, fresh)
            features.append(strategy.previous_features(inputs(benchmark.train_stream[1])))

    strategy = build(benchmark, tiny, parity=True, plugins=[Spy("before_backward", see)])
    train(strategy, benchmark, 0, 1)
    assert len(features) == 16
    assert float((features[0] - features[-1]).abs().max()) > 1e-3


def test_it_lives_in_adapters(benchmark_of: Any, tiny: str) -> None:
    model = build_model(benchmark_of("dil", (2, 2)), backbone="bert", encoder=tiny)
    with pytest.raises(TypeError, match="bert_adapter"):
        CLASSIC(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
