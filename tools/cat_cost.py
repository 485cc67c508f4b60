"""What CAT's search for similar tasks costs, task by task.

    python tools/cat_cost.py --backbone w2v --similar none

Trains CAT on ten generated tasks of 400 texts of 40 words and prints, for each task t, seconds of processor time: of
the reference trained on t alone, of the features of t's texts under the masks of all earlier tasks, of the readouts of
these, and of the training proper. What is found is put aside: `--similar all` lets it train with every earlier task as
a similar one, `none` without any. `w2v` has random vectors of width 300, `bert` a random encoder of 2 layers of width
32.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from nlpcl.benchmarks import TextTask, Words, text_benchmark_from_tasks
from nlpcl.models import build_model
from nlpcl.strategies.cat import cat

WORDS = [f"word{i}" for i in range(16)]


def texts(n: int, seed: int) -> pd.DataFrame:
    """Texts in which one of the first two of WORDS says which class it is."""
    draw, rows = random.Random(seed), []
    for _ in range(n):
        label, text = draw.randrange(2), draw.choices(WORDS[2:], k=40)
        text[draw.randrange(40)] = WORDS[label]
        rows.append({"text": " ".join(text), "label": label})
    return pd.DataFrame(rows)


def benchmark_and_model(backbone: str, tasks: int, folder: Path) -> tuple[Any, Any]:
    parts = [[texts(n, 3 * i + k) for k, n in enumerate((400, 50, 8))] for i in range(tasks)]
    stream = [TextTask(f"task {i}", ("a", "b"), *part) for i, part in enumerate(parts)]
    torch.manual_seed(0)
    tokenizer: Any
    if backbone == "w2v":
        rows = zip(WORDS, torch.randn(len(WORDS), 300).tolist(), strict=True)
        (folder / "v.txt").write_text("".join(f"{word} {' '.join(map(str, row))}\n" for word, row in rows))
        tokenizer, options = Words(folder / "v.txt", "second"), {"layers": 2}
    else:
        (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
        BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
        size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        BertModel(BertConfig(vocab_size=21, max_position_embeddings=64, **size)).save_pretrained(folder)
        tokenizer, options = str(folder), {}
    benchmark = text_benchmark_from_tasks(stream, name="generated", scenario="til", tokenizer=tokenizer, max_length=48)
    return benchmark, build_model(benchmark, backbone, str(folder), **options)


def timed(seconds: dict[str, float], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        result = function(*args, **kwargs)
        seconds[name] = seconds.get(name, 0.0) + time.process_time() - started
        return result

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description="What CAT's search for similar tasks costs.")
    parser.add_argument("--backbone", choices=("w2v", "bert"), default="w2v")
    parser.add_argument("--similar", choices=("none", "all"), default="none")
    parser.add_argument("--tasks", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        benchmark, model = benchmark_and_model(arguments.backbone, arguments.tasks, Path(folder))
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        gates = {"gate_learning_rate": 0.01, "gate_mean": 2.0 if arguments.backbone == "bert" else 0.0}
        strategy = cat.CAT(model=model, optimizer=optimizer, train_mb_size=32, train_epochs=5, evaluator=None, **gates)
        plugin: Any = strategy.masks
        plugin.reference_right = timed(seconds, "reference", plugin.reference_right)
        plugin.masked_features = timed(seconds, "features", plugin.masked_features)
        cat.train_readouts = timed(seconds, "readouts", cat.train_readouts)
        search = timed(seconds, "search", plugin.similar_tasks)

        def similar(trained: Any, task: int, previous: list[int]) -> list[int]:
            search(trained, task, previous)
            return previous if arguments.similar == "all" else []

        plugin.similar_tasks = similar
        for task, experience in enumerate(benchmark.train_stream):
            seconds.clear()
            started = time.process_time()
            strategy.train(experience, eval_streams=[])
            main_training = time.process_time() - started - seconds.get("search", 0.0)
            parts = ", ".join(f"{name} {seconds.get(name, 0):.2f}" for name in ("reference", "features", "readouts"))
            print(f"t = {task}: {parts}, training {main_training:.2f}", flush=True)


if __name__ == "__main__":
    main()
