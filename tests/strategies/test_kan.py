"""KAN: both paths, the gates' gradient and what is blocked against plain loops; phases; learning."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from avalanche.training import Naive
from torch import nn
from torch.nn.functional import cross_entropy

from nlpcl.benchmarks import text_benchmark_from_tasks
from nlpcl.errors import UsageError
from nlpcl.models import build_model
from nlpcl.models.base import Context
from nlpcl.models.frozen import TextGRU
from nlpcl.strategies.kan import KAN, KANNet, KANPlugin, accessible_factors
from tests.helpers.loops import gru_states
from tests.helpers.text_tasks import make_tasks
from tests.helpers.training import Spy
from tests.helpers.validation import Plateau, train_with_validation


def build(benchmark: Any, tiny: str, epochs: int = 3, **options: Any) -> KAN:
    torch.manual_seed(1)
    model = build_model(benchmark, backbone="bert_frozen", encoder=tiny, net="gru", dropout=0.0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
    common = {"train_mb_size": 8, "train_epochs": epochs, "schedule": "linear", "clip_norm": 1.0}
    return KAN(model=model, optimizer=optimizer, **{**common, **options})


def small_net() -> tuple[KANNet, Context, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    context = Context()
    net = KANNet(TextGRU(5, 4, 0.0), context, 3, smax=50.0, init_mean=0.0, init_std=1.0, soft=False)
    lengths = torch.tensor([6, 3, 1])
    return net, context, torch.randn(3, 6, 5), torch.arange(6) < lengths[:, None]


def test_the_main_path_against_a_plain_loop() -> None:
    net, context, x, mask = small_net()
    net.eval()
    net.gates.trained = [0, 1]
    context.start(torch.tensor([1, 0, 1]))
    hard = (net.gates.embeddings[1] > 0).float()
    assert 0 < hard.sum() < 4
    with torch.no_grad():
        out = net(x, mask)
        for row, access in enumerate([hard, torch.ones(4), hard]):
            last = gru_states(net.main.gru, x[row, : int(mask[row].sum())])[-1]
            torch.testing.assert_close(out[row], (last * access).relu())


def test_the_accessibility_path_against_a_plain_loop() -> None:
    net, context, x, mask = small_net()
    net.gates.begin(2)
    net.gates.scale = 0.7
    context.start(2)
    net.accessing = True
    access = torch.sigmoid(0.7 * net.gates.embeddings[2])
    with torch.no_grad():
        out = net.train()(x, mask)
        for row in range(3):
            states = gru_states(net.main.gru, x[row, : int(mask[row].sum())])
            reached = gru_states(net.access.gru, states.relu() * access)[-1]
            torch.testing.assert_close(out[row], reached.relu())
        net.eval()
        context.start(2)
        last = gru_states(net.main.gru, x[0])[-1]
        torch.testing.assert_close(net(x, mask)[0], last.relu() * (net.gates.embeddings[2] > 0))


def test_the_gates_gradient_is_the_compensated_one() -> None:
    """smax sigma'(e) dL/da, with dL/da that of a plain product."""
    net, context, x, mask = small_net()
    net.gates.begin(2)
    net.gates.scale = 0.7
    context.start(2)
    net.accessing = True
    net.train()(x, mask).square().sum().backward()
    e = net.gates.embeddings[2]
    access = torch.sigmoid(0.7 * e.detach()).requires_grad_()
    loss = torch.zeros(())
    for row in range(3):
        states = net.main.states(x[row : row + 1]).relu() * access
        loss = loss + net.access.states(states)[0, int(mask[row].sum()) - 1].relu().square().sum()
    (slope,) = torch.autograd.grad(loss, access)
    s = torch.sigmoid(e.detach())
    torch.testing.assert_close(e.grad, 50.0 * s * (1 - s) * slope)


@pytest.mark.parametrize("channels", [4, 5])
def test_factors_entry_by_entry(channels: int) -> None:
    gru, access = nn.GRU(channels, 4), torch.tensor([1.0, 0.0, 0.3, 1.0])
    factors = {p: f.expand_as(p) for p, f in accessible_factors(gru, access).items()}
    assert len(factors) == 4
    for row in range(12):
        assert factors[gru.bias_ih_l0][row] == factors[gru.bias_hh_l0][row] == access[row % 4]
        for column in range(4):
            assert factors[gru.weight_hh_l0][row, column] == access[column]
        for column in range(channels):
            expected = access[column] if channels == 4 else access[row % 4]
            assert factors[gru.weight_ih_l0][row, column] == expected


def snapshot(strategy: KAN) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in strategy.model.named_parameters()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    names = {name for name in before if not torch.equal(before[name], after[name])}
    return {name.removeprefix("backbone.net.").partition(".gru")[0] for name in names}


def test_phases_train_what_they_should_and_block_the_rest(benchmark_of: Any, tiny: str, monkeypatch: Any) -> None:
    """Also in the third task, after the nets have been frozen and freed again."""
    benchmark = benchmark_of("til", (2, 2, 2), 24)
    strategy = build(benchmark, tiny)
    plugin, between, optimizers = strategy.masks, {}, []
    store, make = plugin.store_mask, strategy.make_optimizer

    def spy() -> None:
        between.update(snapshot(strategy))
        store()

    def note(**kwargs: Any) -> None:
        make(**kwargs)
        optimizers.append(strategy.optimizer)

    monkeypatch.setattr(plugin, "store_mask", spy)
    monkeypatch.setattr(strategy, "make_optimizer", note)
    for task, experience in enumerate(benchmark.train_stream):
        before, steps = snapshot(strategy), strategy.clock.train_iterations
        strategy.train(experience, eval_streams=[])
        after, head = snapshot(strategy), {f"heads.linears.{task}.weight", f"heads.linears.{task}.bias"}
        steps = strategy.clock.train_iterations - steps
        if task == 0:
            assert steps == 3 * 3
            assert moved(before, after) == {"main", *head}
            continue
        assert steps == 2 * 3 * 3
        assert strategy.clock.train_exp_epochs == 3
        assert moved(before, between) == {"access", f"gates.embeddings.{task}", *head}
        assert moved(between, after) == {"main", *head}
        gru = plugin.net.main.gru
        names = {id(p): f"backbone.net.main.gru.{name}" for name, p in gru.named_parameters()}
        for p, factor in accessible_factors(gru, plugin.gates.mask(task)).items():
            free = (factor == 1).expand_as(p)
            assert 0 < free.float().mean() < 1
            old, new = between[names[id(p)]], after[names[id(p)]]
            assert torch.equal(old[~free], new[~free])
            assert (old[free] != new[free]).any()
    assert len({id(optimizer) for optimizer in optimizers}) == 5  # one phase of the first task, two of each later one
    parts = {id(p): name for name in ("main", "access", "gates") for p in getattr(plugin.net, name).parameters()}
    held = [{parts.get(id(p)) for group in o.param_groups for p in group["params"]} - {None} for o in optimizers]
    assert held[-5:] == [{"main"}, {"access", "gates"}, {"main"}, {"access", "gates"}, {"main"}]
    assert torch.equal(plugin.gates.mask(0), torch.ones(32))
    assert plugin.undecided[0] == 0
    assert len(plugin.undecided) == 3


def accuracies(strategy: KAN, benchmark: Any) -> list[float]:
    results = strategy.eval(list(benchmark.test_stream))
    return [value for name, value in results.items() if name.startswith("Top1_Acc_Exp")]


def test_it_learns_task_by_task(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 2))
    strategy = build(benchmark, tiny, epochs=8)
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[])
    assert accuracies(strategy, benchmark)[-1] > 0.75
    model = strategy.model.eval()
    x = torch.stack([benchmark.test_stream[0].dataset[i][0] for i in range(4)])
    with torch.no_grad():
        mixed = model(x, torch.tensor([0, 1, 0, 1]))
        backbone = model.backbone
        for row in range(4):
            torch.testing.assert_close(mixed[row], model(x[row : row + 1], row % 2)[0], atol=1e-5, rtol=0)
        backbone.encoder.padding = "fixed"
        torch.testing.assert_close(model(x, torch.tensor([0, 1, 0, 1])), mixed, atol=1e-5, rtol=0)


def test_it_learns_domains_and_both_inferences_serve(benchmark_of: Any, tiny: str) -> None:
    tasks = make_tasks((2, 2), flip=False)
    benchmark = text_benchmark_from_tasks(tasks, name="tiny", scenario="dil", tokenizer=tiny, max_length=32)
    strategy = build(benchmark, tiny, epochs=8)
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[])
    assert strategy.masks.gates.override == 1
    assert min(accuracies(strategy, benchmark)) > 0.75
    strategy.options = strategy.options.model_copy(update={"inference": "entropy"})
    assert min(accuracies(strategy, benchmark)) > 0.7
    assert strategy.masks.gates.override == 1


def test_the_surest_mask_serves_and_one_pass_finds_it(benchmark_of: Any, tiny: str, monkeypatch: Any) -> None:
    benchmark = benchmark_of("dil", (2, 2, 2), 16)
    strategy = build(benchmark, tiny, inference="entropy")
    gates, model, passes = strategy.masks.gates, strategy.model, []
    gates.trained, gates.override = [1, 2], 1
    x = torch.stack([benchmark.test_stream[0].dataset[i][0] for i in range(16)])
    expected, chosen = [], set()
    with torch.no_grad():
        model.eval()
        model.heads.linear.bias.sub_(model(x, 0).mean(dim=0))  # so that no mask is the surest for all
        logits = []
        for task in gates.trained:
            gates.override = task
            logits.append(model(x, 0))
        for row in range(16):
            p = [each[row].softmax(dim=0) for each in logits]
            entropies = [-(each * each.log()).sum() for each in p]
            surest = min(range(2), key=lambda k: entropies[k])
            chosen.add(surest)
            expected.append(logits[surest][row])
        run = model.backbone.tokens
        monkeypatch.setattr(model.backbone, "tokens", lambda *args: passes.append(1) or run(*args))
        strategy.mbatch = [x, torch.zeros(16, dtype=torch.long), torch.zeros(16, dtype=torch.long)]
        strategy._unpack_minibatch()
        torch.testing.assert_close(strategy.forward(), torch.stack(expected))
        assert chosen == {0, 1}
        assert len(passes) == 1
        strategy.options = strategy.options.model_copy(update={"inference": "last"})
        torch.testing.assert_close(strategy.forward(), logits[1])


def test_the_gates_are_annealed_clamped_and_have_their_own_learning_rate(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 2), 24)
    strategy = build(benchmark, tiny, epochs=2, gate_learning_rate=50.0)
    gates, scales, largest = strategy.masks.gates, [], []

    def before(strategy: Any) -> None:
        if strategy.masks.net.accessing:
            scales.append(gates.scale)

    def after(strategy: Any) -> None:
        largest.append(float(gates.embeddings[1].detach().abs().max()))

    strategy.plugins += [Spy("before_forward", before), Spy("after_training_iteration", after)]
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[])
    assert scales == pytest.approx([1 / 400, (400 + 1 / 400) / 2, 400.0] * 2)
    assert max(largest) == 6


def test_a_copy_and_a_loaded_model_go_on_alike(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 2, 2), 24)
    strategy, loaded = build(benchmark, tiny), build(benchmark, tiny)
    for experience in list(benchmark.train_stream)[:2]:
        strategy.train(experience, eval_streams=[])
    copy = deepcopy(strategy)
    loaded.model.load_state_dict(strategy.model.state_dict())
    for each in (strategy, copy, loaded):
        torch.manual_seed(3)
        each.train(benchmark.train_stream[2], eval_streams=[])
        assert each.masks.gates.trained == [0, 1, 2]
    for other in (copy, loaded):
        state = other.model.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in strategy.model.state_dict().items())
    kept = [strategy.kept_bytes(tasks)["gates"] for tasks in (1, 2, 3)]
    assert kept[2] - kept[1] == kept[1] - kept[0] == 4 * 32


def test_parity_keeps_soft_masks(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 2), 16)
    strategy = build(benchmark, tiny, epochs=1, parity=True)
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[])
    gates = strategy.masks.gates
    torch.testing.assert_close(gates.mask(1), torch.sigmoid(400 * gates.embeddings[1].detach()))


def of_stream(experience: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets of an experience."""
    data = experience.dataset
    return torch.stack([data[i][0] for i in range(len(data))]), torch.tensor(list(data.targets))


@pytest.mark.parametrize("plateau", [None, Plateau(1, 2.0, 0.3)], ids=["best epoch", "plateau"])
def test_both_phases_are_chosen_on_validation_data_as_plain_loops_would(
    benchmark_of: Any, tiny: str, plateau: Plateau | None
) -> None:
    """Each along its own path, from the equations. Whole batches, so that s is smax, and chance has no part."""
    benchmark = benchmark_of("til", (2, 2), 32)
    rate, of_gates, smax, epochs = 1.5, 0.4, 20.0, 16
    torch.manual_seed(1)
    model = build_model(benchmark, backbone="bert_frozen", encoder=tiny, net="gru", dropout=0.0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    settings: Any = plateau.settings if plateau else {"best_epoch": True}
    options: Any = {"train_mb_size": 32, "train_epochs": epochs, "clip_norm": 1.0, "smax": smax, **settings}
    strategy = KAN(model=model, optimizer=optimizer, gate_learning_rate=of_gates, gate_init=0.2, **options)
    strategy.train(benchmark.train_stream[0], eval_streams=[])
    net: Any = deepcopy(model.backbone.net).requires_grad_()
    head: Any = deepcopy(model.heads.linears[1])
    torch.manual_seed(2)
    strategy.train(benchmark.train_stream[1], eval_streams=[])

    (x, y), (valid_x, valid_y) = of_stream(benchmark.train_stream[1]), of_stream(benchmark.valid_stream[1])
    with torch.no_grad():
        tokens, masks = zip(*(model.backbone.tokens(inputs, 0) for inputs in (x, valid_x)), strict=True)
    gru, access, e = net.main.gru, net.access.gru, net.gates.embeddings[1]

    def last(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return states[torch.arange(len(states)), mask.sum(dim=1) - 1]

    def accessible(part: int, a: torch.Tensor) -> torch.Tensor:
        states = access(gru(tokens[part])[0].relu() * a)[0]
        return head(last(states, masks[part]).relu())

    def main(part: int, a: torch.Tensor) -> torch.Tensor:
        return head(last(gru(tokens[part])[0], masks[part]).relu() * a)

    def descend(parameters: list[Any], gradients: list[torch.Tensor], now: float) -> None:
        norm = torch.stack([g.norm() for g in gradients]).norm()
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p -= now * g * min(1.0, 1.0 / float(norm))

    def access_step(now: float) -> None:
        a = torch.sigmoid(smax * e.detach()).requires_grad_()
        parameters = [*access.parameters(), *head.parameters()]
        *gradients, of_a = torch.autograd.grad(cross_entropy(accessible(0, a), y), [*parameters, a])
        descend(parameters, gradients, now)
        s = torch.sigmoid(e.detach())
        with torch.no_grad():
            e.sub_(now / rate * of_gates * smax * s * (1 - s) * of_a).clamp_(-6, 6)

    def main_step(now: float) -> None:
        hard = (e > 0).float()
        parameters = [*gru.parameters(), *head.parameters()]
        gradients = list(torch.autograd.grad(cross_entropy(main(0, hard), y), parameters))
        rows = hard.repeat(3)
        assert gru.input_size == gru.hidden_size
        factors = {"weight_ih_l0": hard[None], "weight_hh_l0": hard[None], "bias_ih_l0": rows, "bias_hh_l0": rows}
        for i, (name, _) in enumerate(gru.named_parameters()):
            gradients[i] = gradients[i] * factors[name]
        descend(parameters, gradients, now)

    @torch.no_grad()
    def validate(path: Any) -> float:
        return float(cross_entropy(path(1, (e > 0).float()), valid_y))

    common: Any = {"epochs": epochs, "learning_rate": rate, "plateau": plateau}
    phases: list[tuple[Any, Any, Any]] = [
        (access_step, accessible, [*access.parameters(), *head.parameters(), e]),
        (main_step, main, [*gru.parameters(), *head.parameters()]),
    ]
    expected = []
    for step, path, parameters in phases:
        best, rates = train_with_validation(step, lambda path=path: validate(path), parameters, **common)  # type: ignore[misc]
        assert rates[-1] < rate if plateau else best < epochs
        expected.append(best)
    assert strategy.early_stopping.best_epochs[1:] == expected
    found = {
        "main": model.backbone.net.main.gru,
        "access": model.backbone.net.access.gru,
        "head": model.heads.linears[1],
    }
    for name, loop in {"main": gru, "access": access, "head": head}.items():
        for p, value in zip(found[name].parameters(), loop.parameters(), strict=True):
            torch.testing.assert_close(p, value, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(model.backbone.net.gates.embeddings[1], e, atol=1e-4, rtol=1e-3)


def test_the_plugin_under_avalanches_naive(benchmark_of: Any, tiny: str) -> None:
    """Two trainings make the two phases; blocked entries stay though momentum and decay would move them."""
    benchmark = benchmark_of("til", (2, 2), 24)
    model = build_model(benchmark, backbone="bert_frozen", encoder=tiny, net="gru")
    plugin = KANPlugin(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    common = {"train_mb_size": 8, "train_epochs": 2, "plugins": [plugin], "evaluator": None}
    strategy = Naive(model=model, optimizer=optimizer, criterion=nn.CrossEntropyLoss(), **common)
    first, second = benchmark.train_stream
    strategy.train(first, eval_streams=[])
    recurrent = plugin.net.main.gru.weight_hh_l0
    before = recurrent.detach().clone()
    strategy.train(second, eval_streams=[])
    assert torch.equal(recurrent, before)
    assert plugin.gates.trained == [0, 1]
    strategy.train(second, eval_streams=[])
    free = plugin.gates.mask(1) > 0
    assert torch.equal(recurrent[:, ~free], before[:, ~free])
    assert not torch.equal(recurrent[:, free], before[:, free])


def test_it_needs_a_recurrent_net(benchmark_of: Any, tiny: str) -> None:
    benchmark = benchmark_of("til", (2, 2), 16)
    model = build_model(benchmark, backbone="bert_frozen", encoder=tiny)
    optimizer = torch.optim.SGD(model.heads.parameters(), lr=0.1)
    with pytest.raises(UsageError, match="net=gru"):
        KAN(model=model, optimizer=optimizer)
    with pytest.raises(TypeError, match="token vectors"):
        KAN(model=build_model(benchmark, encoder=tiny, adapter_size=4), optimizer=optimizer)
