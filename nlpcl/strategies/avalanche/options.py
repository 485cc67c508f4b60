"""The options of Avalanche's own strategies, with the ranges and defaults that Avalanche leaves open.

Where a class of Avalanche has an option without a default, one is given here, so that the name alone works. LwF's
alpha and temperature are those of Li and Hoiem 2017, the others are chosen here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nlpcl.options import Options, option
from nlpcl.ranges import Count, Positive, Share, Temperature, Weight, Width

Weights = Annotated[list[Weight], Field(min_length=1)]


class MemoryOptions(Options):
    """The option of a strategy with a memory."""

    mem_size: Count = option(200, "examples in the memory")


class BatchMemoryOptions(MemoryOptions):
    """The options of a strategy that replays a batch from its memory at each step."""

    batch_size_mem: Count = option(10, "examples of the memory that are replayed at a step")


class AvalancheEWCOptions(Options):
    """The options of EWC; `decay_factor` goes with `mode=online`, and only with it."""

    ewc_lambda: Weight = option(1.0, "weight of the penalty; the larger, the less the weights move")
    mode: Literal["separate", "online"] = option(
        "separate", "`separate` keeps a penalty for each earlier task, `online` one that decays over them"
    )
    decay_factor: Share | None = option(None, "factor of the earlier importances at each task; with mode=online alone")
    keep_importance_data: bool = option(
        False, "also in online mode keep the importances and weights of every task; `separate` always does"
    )


class AvalancheGEMOptions(Options):
    """The options of GEM."""

    patterns_per_exp: Count = option(64, "examples of each task in the memory")
    memory_strength: Weight = option(
        0.5, "offset of the projection, in favour of backward transfer; gamma in GEM's paper"
    )


class AvalancheAGEMOptions(Options):
    """The options of A-GEM."""

    patterns_per_exp: Count = option(64, "examples of each task in the memory")
    sample_size: Count = option(64, "examples of the memory that give the reference gradient; at least one a task")


class LwFOptions(Options):
    """The options of LwF."""

    alpha: Weight | Weights = option(1.0, "weight of the distillation: a number, or a list with one for each task")
    temperature: Temperature = option(2.0, "temperature of the softmax in the distillation")


class SIOptions(Options):
    """The options of synaptic intelligence."""

    si_lambda: Weight | Weights = option(
        1.0, "weight of the penalty: a number, or a list with one for each task, whose last serves the rest"
    )
    eps: Positive = option(1e-7, "damping of the importances")


class MASOptions(Options):
    """The options of MAS."""

    lambda_reg: Weight = option(1.0, "weight of the penalty")
    alpha: Share = option(0.5, "weight of the earlier importances in their mean with a task's own")
    verbose: bool = option(False, "show a progress bar while importances are computed")


class DEROptions(MemoryOptions):
    """The options of DER."""

    batch_size_mem: Count | None = option(
        None, "examples of the memory that are replayed at a step; None means as many as the mini-batch has"
    )
    alpha: Weight = option(0.1, "weight of the squared distance from stored logits")
    beta: Weight = option(0.5, "weight of the cross-entropy of replayed examples; above 0 it is DER++")


class RWalkOptions(Options):
    """The options of Riemannian walk."""

    ewc_lambda: Weight = option(0.1, "weight of the penalty")
    ewc_alpha: Share = option(0.9, "weight of the newest importance in its moving average")
    delta_t: Count = option(10, "steps between two updates of the scores; the first task must have so many")


class LFLOptions(Options):
    """The option of less-forgetful learning."""

    lambda_e: Weight = option(1.0, "weight of the mean squared distance of the features")


class GSSOptions(Options):
    """The options of gradient-based sample selection."""

    mem_size: Count = option(
        200, "examples in the memory; at least a mini-batch and the 32 that Avalanche replays with it"
    )
    mem_strength: Count = option(1, "gradients of the memory that a new example's gradient is compared with")


class MIROptions(Options):
    """The options of maximally interfered retrieval."""

    mem_size: Count = option(200, "examples in the memory, of all classes alike")
    subsample: Count = option(50, "examples drawn from the memory at a step")
    batch_size_mem: Count = option(10, "drawn examples that are replayed")


class MEROptions(BatchMemoryOptions):
    """The options of meta-experience replay."""

    n_inner_steps: Count = option(5, "updates for each example")
    beta: Share = option(0.1, "factor of the Reptile update within a batch")
    gamma: Share = option(0.1, "factor of the Reptile update within a task")


class CoPEOptions(Options):
    """The options of continual prototype evolution."""

    mem_size: Count = option(200, "examples in the memory, of all classes alike")
    p_size: Width = option(100, "width of the embedding")
    alpha: Share = option(0.99, "momentum of the prototypes")
    T: Temperature = option(0.1, "temperature of the softmax")


class ICaRLOptions(Options):
    """The options of iCaRL."""

    memory_size: Count = option(200, "exemplars of all classes together")
    fixed_memory: bool = option(True, "whether memory_size holds for all classes together; if not, for each class")


class CWROptions(Options):
    """The option of CWR*."""

    cwr_layer_name: str = option("heads.linear", "name of the layer whose weights are consolidated, the head's")


class FromScratchOptions(Options):
    """The option of training from scratch."""

    reset_optimizer: bool = option(True, "also start the optimizer anew for each task")
