from typing import Any

from avalanche.core import BaseSGDPlugin

class Clock(BaseSGDPlugin[Any]):
    train_iterations: int
    train_exp_counter: int
    train_exp_epochs: int
    train_exp_iterations: int
    train_epoch_iterations: int
    total_iterations: int
