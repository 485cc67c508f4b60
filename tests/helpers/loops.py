"""Layers as plain loops over units, windows and samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nlpcl.models.frozen import WINDOWS, TextCNN
from nlpcl.strategies.classic import TaskAttention


def dot(a: Tensor, b: Tensor) -> float:
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def loop_contrast(views: list[Tensor], labels: list[int], tau: float) -> float:
    """-1/|P(i)| sum_p log( exp(z_i.z_p / tau) / sum_{a != i} exp(z_i.z_a / tau) ), averaged over the anchors i."""
    z = [row for view in views for row in view]
    y = labels * len(views)
    losses = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        total = sum(math.exp(dot(z[i], z[a]) / tau) for a in others)
        logs = [math.log(math.exp(dot(z[i], z[p]) / tau) / total) for p in others if y[p] == y[i]]
        losses.append(-sum(logs) / len(logs))
    return sum(losses) / len(losses)


@torch.no_grad()
def loop_attention(attention: TaskAttention, x: Tensor) -> Tensor:
    """The equations for one sample: x is (F, n)."""
    features, tasks = x.shape

    def linear(layer: torch.nn.Linear) -> list[list[float]]:
        return [
            [float(sum(layer.weight[i, j] * x[f, j] for j in range(tasks)) + layer.bias[i]) for i in range(tasks)]
            for f in range(features)
        ]

    q, k, v = linear(attention.query), linear(attention.key), linear(attention.value)
    out = torch.zeros(features, tasks)
    for i in range(tasks):
        energy = [math.exp(sum(q[f][i] * k[f][j] for f in range(features))) for j in range(tasks)]
        weight = [e / sum(energy) for e in energy]
        for f in range(features):
            mixed = sum(weight[j] * v[f][j] for j in range(tasks))
            out[f, i] = float(attention.gamma) * mixed + float(x[f, i])
    return out


def gru_states(gru: nn.GRU, x: torch.Tensor) -> torch.Tensor:
    """The states (L, H) of one text (L, C), unit by unit."""
    w_x, w_h, b_x, b_h = (getattr(gru, f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    size, h, states = gru.hidden_size, torch.zeros(gru.hidden_size), []
    for token in x:
        new = torch.zeros(size)
        for j in range(size):
            r_x, z_x, n_x = (w_x[j + k * size] @ token + b_x[j + k * size] for k in range(3))
            r_h, z_h, n_h = (w_h[j + k * size] @ h + b_h[j + k * size] for k in range(3))
            r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
            new[j] = (1 - z) * torch.tanh(n_x + r * n_h) + z * h[j]
        h = new
        states.append(h)
    return torch.stack(states)


def loop_cnn(cnn: TextCNN, x: torch.Tensor) -> torch.Tensor:
    """Kim's net for one text (L, C): every window that lies in it, or the one window that holds it."""
    length, features = len(x), []
    padded = torch.cat([x, torch.zeros(max(WINDOWS), x.shape[1])])
    for window, convolution in zip(WINDOWS, cnn.convolutions, strict=True):
        for f in range(cnn.filters):
            outs = [
                float((padded[i : i + window].T * convolution.weight[f]).sum() + convolution.bias[f])
                for i in range(max(1, length - window + 1))
            ]
            features.append(max(0.0, max(outs)))
    out = torch.tensor(features)
    for linear in cnn.linears:
        out = (linear.weight @ out + linear.bias).relu()
    return out
