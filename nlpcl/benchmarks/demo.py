"""demo: aspect sentiment in six domains, written by a grammar, where the same words change sides.

Nothing is downloaded. A sentence speaks of two aspects; the label is the polarity of the one that is asked
for. "Long" praises a laptop's battery life and damns a restaurant's queue, so what one domain teaches is wrong in
the next. One label in 25 is wrong, in every split: no method can be right about those.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from avalanche.benchmarks import CLScenario

from nlpcl.benchmarks.base import TextTask, order_tasks, shuffle_cut, text_benchmark_from_tasks
from nlpcl.registry import register_benchmark

LABELS = ("positive", "negative")
SIZES = {"train": 200, "valid": 40, "test": 120}
NOISE = 0.04

# For every aspect the words that praise it and the words that damn it.
DOMAINS: dict[str, dict[str, tuple[str, str]]] = {
    "laptop": {
        "battery life": ("long solid", "short weak"),
        "case": ("light thin small", "heavy thick big"),
        "fan": ("quiet slow soft", "loud fast strong"),
        "processor": ("fast cool strong", "slow hot weak"),
        "keyboard": ("soft quiet firm", "hard loud loose"),
    },
    "restaurant": {
        "queue": ("short fast small", "long slow big"),
        "soup": ("hot thick strong", "cold thin weak"),
        "portion": ("big heavy thick", "small light thin"),
        "music": ("soft quiet slow", "loud fast hard"),
        "lighting": ("warm low soft", "cold bright hard"),
    },
    "hotel": {
        "room": ("big bright quiet cool", "small dark loud hot"),
        "blanket": ("thick heavy warm", "thin light cold"),
        "walk to the beach": ("short", "long"),
        "mattress": ("firm thick hard", "soft thin loose"),
        "shower": ("hot strong", "cold weak"),
    },
    "headphones": {
        "bass": ("heavy strong low", "light weak thin"),
        "speaker": ("loud bright big", "quiet dark small"),
        "cord": ("long thick", "short thin"),
        "band": ("loose light soft", "tight heavy hard"),
        "tone": ("warm dark low", "cold bright sharp"),
    },
    "camera": {
        "lens": ("sharp bright fast heavy", "soft dark slow light"),
        "zoom": ("long strong", "short weak"),
        "shutter": ("quiet fast short", "loud slow long"),
        "grip": ("firm big tight", "loose small soft"),
        "picture": ("sharp bright cold", "soft dark warm"),
    },
    "bicycle": {
        "frame": ("light thin hard", "heavy thick soft"),
        "brake": ("hard sharp tight", "soft weak loose"),
        "bell": ("loud bright", "quiet low"),
        "saddle": ("soft big low", "hard small tight"),
        "chain": ("tight quiet short", "loose loud long"),
    },
}
PLAIN = (
    "the {a} is {x} and the {b} is {y}",
    "the {b} is {y} , though the {a} is {x}",
    "with a {b} this {y} , i did not expect the {a} to be so {x}",
    "we found the {a} {x} but the {b} {y}",
    "my friend talked about the {y} {b} ; i remember the {x} {a}",
    "it has a {x} {a} and a {y} {b}",
)
WORDS_BEFORE = ("", "honestly , ", "after a month , ", "as far as i can tell , ", "in short , ", "for the price , ")
WORDS_AFTER = ("", " .", " , just so you know .", " , at least for me .", " every single time .", " , what else is there to say ?")
DEGREES = ("", "", "very ", "quite ", "really ", "rather ")


def _word(rng: random.Random, aspect: tuple[str, str], label: int) -> str:
    """A phrase that gives `aspect` the polarity `label`; now and then by denying the opposite."""
    denied = rng.random() < 0.2
    word = rng.choice(aspect[1 - label if denied else label].split())
    return f"not {word}" if denied else rng.choice(DEGREES) + word


def _sentence(rng: random.Random, domain: str, label: int) -> tuple[str, str]:
    """An aspect of the domain and a sentence in which it has the polarity `label`."""
    aspects = DOMAINS[domain]
    asked, other = rng.sample(list(aspects), 2)
    other_label = label if rng.random() < 0.3 else 1 - label
    sentence = rng.choice(PLAIN).format(
        a=asked, b=other, x=_word(rng, aspects[asked], label), y=_word(rng, aspects[other], other_label)
    )
    return asked, rng.choice(WORDS_BEFORE) + sentence + rng.choice(WORDS_AFTER)


def _task(domain: str, train_size: int | None, seed: int) -> TextTask:
    rng = random.Random(f"demo {domain}")
    seen: set[tuple[str, str]] = set()
    frames = {}
    for split, size in SIZES.items():
        rows = []
        while len(rows) < size:
            label = len(rows) % 2
            example = _sentence(rng, domain, label)
            if example not in seen:
                seen.add(example)
                told = 1 - label if rng.random() < NOISE else label
                rows.append({"text": example[0], "text_pair": example[1], "label": told})
        frames[split] = pd.DataFrame(rows)
    return TextTask(domain, LABELS, shuffle_cut(frames["train"], train_size, seed), frames["valid"], frames["test"])


def _orders() -> list[list[str]]:
    """Six orders: each domain comes first once."""
    names = list(DOMAINS)
    return [names[i:] + names[:i] for i in range(len(names))]


@register_benchmark(
    "demo",
    title="aspect sentiment in six generated domains",
    source="generated by this package",
    licence="MIT, as this package",
    citation="this package",
    labels=LABELS,
    orders=6,
)
def Demo(
    scenario: str = "til",
    order: int | Sequence[str] = 0,
    *,
    tokenizer: Any = "minilm",
    max_length: int = 64,
    tasks: int | None = None,
    train_size: int | None = None,
    seed: int = 0,
    root: str | Path | None = None,
) -> CLScenario[Any]:
    """Six domains of 200 training, 40 validation and 120 test examples; aspect (segment A), sentence (segment B).

    :param scenario: `til` or `dil`; in the latter the aspect still tells the domain.
    :param order: 0 to 5, or a list of domains.
    :param tokenizer: name of the encoder, or a tokenizer.
    :param max_length: tokens an example is padded or cut to.
    :param tasks: only the first so many tasks of the order.
    :param train_size: at most so many training examples per task, drawn with `seed`.
    :param seed: seed of that draw.
    :param root: not used: nothing is read.
    :raises UsageError: unknown order or domain.
    """
    return text_benchmark_from_tasks(
        [_task(domain, train_size, seed) for domain in order_tasks(_orders(), order, tasks)],
        name="demo",
        scenario=scenario,
        tokenizer=tokenizer,
        max_length=max_length,
    )
