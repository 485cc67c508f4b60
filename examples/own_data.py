"""Your own data as a stream: data frames in, a matrix of accuracies out.

python examples/own_data.py [ENCODER]
"""

import random
import sys

import pandas as pd
import torch

from nlpcl import build_model, fit
from nlpcl.benchmarks import text_benchmark
from nlpcl.strategies.hat import HAT

encoder = sys.argv[1] if len(sys.argv) > 1 else "minilm"
draw = random.Random(0)


def part(thing: str, praise: str, blame: str, n: int) -> pd.DataFrame:
    """Columns `text` and `label`; a column `text_pair` would hold second texts, an aspect or a hypothesis."""
    words = {"good": praise.split(), "bad": blame.split()}
    labels = draw.choices(list(words), k=n)
    texts = [f"the {thing} was {draw.choice(['', 'very ', 'rather '])}{draw.choice(words[label])}" for label in labels]
    return pd.DataFrame({"text": texts, "label": labels})


# What praises a soup blames a beer: the second task contradicts the first.
soup, beer = ("soup", "warm hot", "cold cool"), ("beer", "cold cool", "warm hot")
# Without a part "valid" a tenth of "train" validates. A folder with <task>/train.csv and test.csv would do as well:
# text_benchmark("mydata"), or nlpcl run --benchmark folder --data-root mydata.
benchmark = text_benchmark(
    {thing[0]: {"train": part(*thing, n=80), "test": part(*thing, n=40)} for thing in (soup, beer)},
    scenario="til",
    tokenizer=encoder,
    max_length=32,
)
torch.manual_seed(0)
model = build_model(benchmark, encoder=encoder, adapter_size=64)
strategy = HAT(model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=5e-3), train_mb_size=16, train_epochs=5)
for trained, row in zip(benchmark.task_names, fit(strategy, benchmark).accuracy, strict=True):
    seen = zip(benchmark.task_names, row, strict=True)
    print(f"after {trained}:", ", ".join(f"{task} {score:.0%}" for task, score in seen if score is not None))
