"""The contrastive loss and the task attention against loops written from the equations."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from nlpcl.strategies.classic import TaskAttention, TaskAttentions, contrastive_loss
from tests.helpers.loops import loop_attention, loop_contrast

B, DIM, TAU = 7, 5, 0.7


@pytest.mark.parametrize("labels", [[0, 1, 2, 0, 0, 1, 1], list(range(B))], ids=["classes", "samples"])
@pytest.mark.parametrize("n_views", [2, 3])
def test_contrast_equals_the_loop(labels: list[int], n_views: int) -> None:
    torch.manual_seed(0)
    views = F.normalize(torch.randn(n_views, B, DIM), dim=-1)
    found = contrastive_loss(views, torch.tensor(labels), TAU)
    assert float(found) == pytest.approx(loop_contrast(list(views), labels, TAU), abs=1e-5)


def test_what_leads_is_averaged_over() -> None:
    torch.manual_seed(0)
    views, labels = F.normalize(torch.randn(4, 2, B, DIM), dim=-1), torch.arange(B)
    each = torch.stack([contrastive_loss(one, labels, TAU) for one in views])
    torch.testing.assert_close(contrastive_loss(views, labels, TAU), each.mean())


def test_one_example_has_nothing_to_be_told_from() -> None:
    view = F.normalize(torch.randn(1, DIM), dim=-1).requires_grad_()
    loss = contrastive_loss(torch.stack([view, view]), torch.tensor([3]), TAU)
    assert float(loss.detach()) == 0.0
    assert torch.equal(torch.autograd.grad(loss, view)[0], torch.zeros(1, DIM))


@pytest.mark.parametrize("tasks", [2, 4])
def test_attention_equals_the_loop(tasks: int) -> None:
    torch.manual_seed(0)
    attention, x = TaskAttention(tasks), torch.randn(3, DIM, tasks)
    assert torch.equal(attention(x), x)  # gamma starts at 0
    torch.nn.init.constant_(attention.gamma, 0.8)
    expected = torch.stack([loop_attention(attention, sample) for sample in x])
    torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=1e-5)


def test_each_task_has_its_attention() -> None:
    attentions = TaskAttentions(4)
    for previous, own in enumerate(attentions.attentions, start=1):
        torch.nn.init.ones_(own.gamma)
        x = torch.randn(2, DIM, previous + 1)
        assert torch.equal(attentions(x), own(x))
        attentions.begin(previous)
        assert {id(p) for p in attentions.parameters() if p.requires_grad} == {id(p) for p in own.parameters()}
    attentions.begin(0)
    assert not any(p.requires_grad for p in attentions.parameters())


def test_only_attentions_of_trained_tasks_are_kept() -> None:
    sizes = [4 * (3 * (n * n + n) + 1) for n in (2, 3, 4)]  # three maps n -> n and gamma
    assert [TaskAttentions(4).bytes_for(tasks) for tasks in range(5)] == [0, 0, sizes[0], sum(sizes[:2]), sum(sizes)]
