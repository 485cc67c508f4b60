"""What a training step costs: of each strategy, against a bare loop, task by task, and in memory.

    python tools/speed.py --data-root DIR --adapter-size 64 --out speed.json

The stream has 19 tasks with the same texts, those of ASC's laptop domain, so that task t differs from task 0 in nothing
but t. Each strategy is measured in a process of its own: first alone, through all tasks, for its memory and its growth;
then at the last task in turns with NCL, a bare loop and Avalanche's Naive. Times are medians over steps. On a CPU with
one thread they are processor time, which other programs on the machine disturb least; otherwise they are wall time.
`--padding fixed` pads all texts to `--max-length`, as the original toolkit does; `--encoder random-bert-base` takes an
encoder of that shape with random weights.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.supervised import Naive
from torch import nn
from transformers import AutoTokenizer, BertConfig, BertModel

from nlpcl.benchmarks import StreamRequest, TextTask, text_benchmark_from_tasks
from nlpcl.benchmarks.text import asc
from nlpcl.config.encoders import encoder_path
from nlpcl.config.resolve import resolve
from nlpcl.config.spec import RunSpec
from nlpcl.models import build_model
from nlpcl.models.device import to_device
from nlpcl.options import Options
from nlpcl.registry import benchmarks
from nlpcl.runs import results
from nlpcl.runs.run import build_strategy
from nlpcl.training.batches import batch_rows, loader_of
from nlpcl.training.device import choose_device
from nlpcl.training.forward import DTYPES

DOMAIN = "XuSemEval14_laptop"
TEST = 64


class Clock(SupervisedPlugin[Any]):
    """Seconds from the start of each step to the start of the next, loading included."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self.now = now
        self.times: list[float] = []

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        self.times = [self.now()]

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.times.append(self.now())

    def seconds(self) -> list[float]:
        return [after - before for before, after in pairwise(self.times)]


def clock_of(device: torch.device, threads: int) -> Callable[[], float]:
    if device.type == "cpu":
        return time.process_time if threads == 1 else time.perf_counter

    def synchronized() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronized


def stream(arguments: argparse.Namespace, encoder: str) -> Any:
    """The tasks, all of the same texts."""

    def frame(split: str, rows: int) -> pd.DataFrame:
        request = StreamRequest("asc", Options(), "til", 0, None, None, 0, arguments.data_root)
        return asc._frame(request, DOMAIN, split).head(rows)

    parts = [frame("train", arguments.steps * arguments.batch), frame("valid", 8), frame("test", TEST)]
    tasks = [TextTask(f"task {t}", benchmarks.get("asc").labels, *parts) for t in range(arguments.tasks)]
    return text_benchmark_from_tasks(
        tasks, name="same", scenario="til", tokenizer=encoder, max_length=arguments.max_length
    )


class Bench:
    """What is needed to measure one strategy."""

    def __init__(self, arguments: argparse.Namespace, encoder: str) -> None:
        torch.set_num_threads(arguments.threads)
        self.arguments = arguments
        self.encoder = encoder
        self.device = choose_device(arguments.device)
        self.now = clock_of(self.device, arguments.threads)
        self.benchmark = stream(arguments, encoder)

    def model(self) -> Any:
        torch.manual_seed(0)
        options = {"adapter_size": self.arguments.adapter_size, "padding": self.arguments.padding}
        return build_model(self.benchmark, "bert_adapter", self.encoder, **options)

    def strategy(self, name: str) -> tuple[Any, Clock]:
        given = {"benchmark": "asc", "strategy": name, "backbone": "bert_adapter", "model": self.encoder}
        given |= {"train_batch_size": self.arguments.batch, "precision": self.arguments.precision}
        clock = Clock(self.now)
        spec = resolve(RunSpec.parse(given))
        strategy = build_strategy(spec, self.model(), self.device, plugins=[clock])
        if self.arguments.gradient_checkpointing:
            strategy.model.backbone.recompute_activations()
        if self.arguments.compile:
            strategy.model.backbone.compile_encoder()
        return strategy, clock

    def naive(self) -> tuple[Any, Clock]:
        """Avalanche's own training loop and loader, in float32; on a GPU it pads to the longest text of all."""
        model, clock = self.model(), Clock(self.now)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        size = self.arguments.batch
        parts = {"train_mb_size": size, "device": self.device, "plugins": [clock], "evaluator": None}
        return Naive(model=model, optimizer=optimizer, criterion=nn.CrossEntropyLoss(), **parts), clock

    def train(self, strategy: Any, clock: Clock, task: int) -> list[float]:
        """Seconds of the steps of a task, whose batches are the same for every task."""
        torch.manual_seed(0)
        strategy.train(self.benchmark.train_stream[task], eval_streams=[])
        return clock.seconds()

    def bare(self) -> Callable[[], list[float]]:
        """The least that trains the same model on the same batches with the same optimizer and schedule."""
        model, device = self.model().to(self.device).train(), self.device
        if self.arguments.gradient_checkpointing:
            model.backbone.recompute_activations()
        if self.arguments.compile:
            model.backbone.compile_encoder()
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, eps=1e-6, fused=True if device.type == "cuda" else None)
        half = DTYPES[self.arguments.precision]
        scaler = torch.amp.GradScaler(device.type, enabled=half is torch.float16)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        data = self.benchmark.train_stream[0].dataset

        def epoch() -> list[float]:
            torch.manual_seed(0)
            loader = loader_of(data, batch_rows(data, self.arguments.batch, shuffle=True))
            times = [self.now()]
            for x, y, _ in loader:
                x, y = to_device(model.backbone.trimmed(x), device), to_device(y, device)
                optimizer.zero_grad()
                with torch.autocast(device.type, dtype=half, enabled=half is not torch.float32):
                    logits = model(x, 0)
                scaler.scale(nn.functional.cross_entropy(logits, y)).backward()
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(parameters, 1.0)
                scaler.step(optimizer)
                scaler.update()
                schedule.step()
                times.append(self.now())
            return [after - before for before, after in pairwise(times)]

        return epoch


def measure(name: str, arguments: argparse.Namespace, encoder: str, answer: Any) -> None:
    """Put what one strategy costs into the queue `answer`."""
    bench = Bench(arguments, encoder)
    idle = results.peak_memory_mb()
    bench.train(*bench.strategy(name), 0)  # the first steps of a process are slower: they are none of task 0's
    strategy, clock = bench.strategy(name)
    growth, evaluation = [], {}
    for task in range(arguments.tasks):
        growth.append(median(bench.train(strategy, clock, task)))
        if task + 1 in (1, arguments.tasks // 2, arguments.tasks):
            begun = bench.now()
            strategy.eval(list(bench.benchmark.test_stream)[: task + 1])
            evaluation[task + 1] = bench.now() - begun
    found: dict[str, Any] = {
        "step": growth,
        "evaluation": evaluation,
        "peak_memory_mb": round(results.peak_memory_mb()),
        "memory_before_mb": round(idle),
        "peak_gpu_memory_mb": results.peak_gpu_memory_mb(bench.device),
    }
    last = arguments.tasks - 1
    turns: dict[str, Callable[[], list[float]]] = {name: lambda: bench.train(strategy, clock, last)}
    ncl = bench.strategy("ncl")
    turns["ncl again" if name == "ncl" else "ncl"] = lambda: bench.train(*ncl, last)
    if name == "ncl":
        naive = bench.naive()
        turns |= {"bare loop": bench.bare(), "Avalanche's Naive": lambda: bench.train(*naive, last)}
    times: dict[str, list[float]] = {turn: [] for turn in turns}
    for round_ in range(arguments.rounds + 1):
        for turn, run in turns.items():
            seconds = run()
            if round_:  # the first warms up
                times[turn] += seconds
    found["in_turns"] = {turn: median(seconds) for turn, seconds in times.items()}
    answer.put(found)


def tokens(bench: Bench) -> dict[str, float]:
    """Texts, real tokens and padding of the mean batch."""
    data = bench.benchmark.train_stream[0].dataset
    real = total = rows = count = 0
    for x, *_ in loader_of(data, batch_rows(data, bench.arguments.batch, shuffle=True)):
        x = x if bench.arguments.padding == "fixed" else bench.model().backbone.trimmed(x)
        real += int(x[:, 1].sum())
        total += x[:, 1].numel()
        rows += len(x)
        count += 1
    return {"texts": rows / count, "real": real / count, "padding_share": 1 - real / total}


@contextmanager
def encoder_folder(name: str) -> Iterator[str]:
    """What `model` is; a folder with random weights for `random-bert-base`."""
    if name != "random-bert-base":
        yield name
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        BertModel(BertConfig()).save_pretrained(folder)
        AutoTokenizer.from_pretrained(encoder_path("minilm")).save_pretrained(folder)
        yield folder


def report(found: dict[str, Any]) -> str:
    """The table, in Markdown."""
    batch, methods = found["batch"], found["strategies"]
    rows = ["| strategy | step, s | x NCL | last task / first | test of a task, s | texts/s | tokens/s | memory, MB |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for name, cost in methods.items():
        step, ncl = cost["in_turns"][name], cost["in_turns"].get("ncl", cost["in_turns"][name])
        growth, tested = cost["step"], cost["evaluation"]
        per_task = ", ".join(f"{seconds / int(tasks):.2f}" for tasks, seconds in tested.items())
        memory = cost["peak_gpu_memory_mb"] or cost["peak_memory_mb"]
        rows.append(
            f"| {name} | {step:.3f} | {step / ncl:.2f} | {growth[-1] / growth[0]:.2f} | {per_task} | "
            f"{batch['texts'] / step:.0f} | {batch['real'] / step:.0f} | {memory:.0f} |"
        )
    if "ncl" in methods:
        turns = methods["ncl"]["in_turns"]
        for other in ("bare loop", "Avalanche's Naive"):
            rows.append(f"| {other} | {turns[other]:.3f} | {turns[other] / turns['ncl']:.2f} | | | | | |")
        rows.append(f"\nNCL's step is {turns['ncl'] / turns['bare loop']:.3f} times that of the bare loop.")
    rows.append(f"{batch['padding_share']:.1%} of the positions are padding.")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="What a training step costs.")
    parser.add_argument("--data-root")
    parser.add_argument("--encoder", default="minilm", help="minilm, random-bert-base, a folder or a hub name")
    parser.add_argument("--strategies", default="ncl,ewc,derpp,hat,bcl,classic,ctr")
    parser.add_argument("--adapter-size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--padding", default="dynamic", choices=("dynamic", "fixed"))
    parser.add_argument("--tasks", type=int, default=19)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32", choices=tuple(DTYPES))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with encoder_folder(arguments.encoder) as encoder:
        found: dict[str, Any] = {"arguments": {k: str(v) for k, v in vars(arguments).items() if k != "data_root"}}
        found |= {"host": results.host(), "python": platform.python_version(), "versions": results.versions()}
        found |= {"batch": tokens(Bench(arguments, encoder)), "strategies": {}}
        for name in arguments.strategies.split(","):
            context = multiprocessing.get_context("spawn")
            answer = context.Queue()
            process = context.Process(target=measure, args=(name, arguments, encoder, answer))
            process.start()
            while process.is_alive() and answer.empty():
                process.join(0.1)
            if answer.empty():
                raise SystemExit(f"{name} could not be measured")
            found["strategies"][name] = answer.get()
            process.join()
            print(f"{name}: {found['strategies'][name]['in_turns']}", flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(report(found))


if __name__ == "__main__":
    main()
