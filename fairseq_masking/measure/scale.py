"""Where a pre-training stops gaining by more GPUs: the time of an update from what it computes, launches and reduces.

With N GPUs and a global batch of B rows an update is a = B / (r N) micro-batches of r rows. Of each micro-batch

    t = max(FLOPs / (peak * utilisation), operators * launch)

whichever is longer, the arithmetic or the host that launches it. fairseq reduces gradients in the last one alone, a
ring within a node and one across nodes for each GPU's part (Patarasuk & Yuan 2009):

    R(bytes) = 2 (g-1)/g bytes / B_node + 2 (n-1)/n bytes / g / B_net + 2 (g-1 + n-1) latency        a bucket

for g GPUs a node and n nodes. Backward, two thirds of t, hides all but the token embedding's part, which it makes
last: it is tied to the head, and a tensor is reduced whole. The optimizer moves ``STATE_BYTES`` a parameter.

What this leaves out: data loading, stragglers, other traffic, that small matrices reach less of the peak.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from fairseq.data import Dictionary

from fairseq_masking.compat.recipes import composed
from fairseq_masking.corpus.encoding import ArrayWriter
from fairseq_masking.errors import UserError
from fairseq_masking.measure.cost import Operators, TrainingStep

__all__ = ["Cluster", "Update", "Work", "best_batch", "update_time", "work_of"]

STATE_BYTES = 30  # of a parameter: fp32 gradient, weight and two moments, three of which are written, and 16 bits


@dataclass(frozen=True)
class Work:
    flops: float  # of a row, forward and backward
    operators: int  # of a micro-batch, forward and backward
    parameters: int
    embedding: int  # parameters of the token embedding
    gradient_bytes: int  # of one value: 2 in half precision, 4 else
    rows: int  # of a micro-batch, at most
    global_batch: int  # rows
    tokens: int  # of a row
    updates: int


@dataclass(frozen=True)
class Cluster:
    """GPUs and what joins them; the defaults are an H100 node's, 400 Gbit/s of network for each GPU."""

    peak: float = 989e12  # FLOP/s of dense bf16 matrix products
    utilisation: float = 0.5  # share of the peak that the model's products reach
    node_size: int = 8
    node_bandwidth: float = 450e9  # bytes a second of a GPU to the others of its node, one way
    network_bandwidth: float = 50e9  # bytes a second of a GPU to other nodes, one way
    latency: float = 10e-6  # seconds of a step of a ring
    launch: float = 3e-6  # seconds of the host for an operator
    memory_bandwidth: float = 3.35e12  # bytes a second
    bucket: float = 25e6  # bytes, --bucket-cap-mb


class Update(NamedTuple):
    """An update on so many GPUs, in seconds."""

    gpus: int
    rows: int  # of a micro-batch
    micro_batches: int
    computed: float
    exposed: float  # reduction that nothing hides
    optimizer: float
    efficiency: float  # time of the arithmetic alone over all of it

    @property
    def seconds(self) -> float:
        return self.computed + self.exposed + self.optimizer

    @property
    def bound_by(self) -> str:
        """What takes most of the time that is not the model's arithmetic."""
        parts = {"launches": self.computed - self.efficiency * self.seconds, "reduction": self.exposed}
        parts["optimizer"] = self.optimizer
        return max(parts, key=lambda name: parts[name])


def work_of(recipe: Path, overrides: Sequence[str], *, vocab_size: int) -> Work:
    """Count what a recipe asks for, on one sequence of random text with ``vocab_size`` symbols."""
    with TemporaryDirectory() as folder:
        place = [f"task.data='{folder}'", f"checkpoint.save_dir='{folder}'", "common.tensorboard_logdir=null"]
        cfg = composed(recipe.parent, recipe.stem, [*overrides, *place])
        tokens, splits = cfg.task.tokens_per_sample, cfg.task.mask_splits
        _write_corpus(Path(folder), vocab_size, tokens)
        one = [f"dataset.batch_size={splits}", "dataset.max_tokens=null", "task.global_batch=null"]
        one += ["optimization.update_freq=[1]", "distributed_training.distributed_world_size=1", "common.cpu=true"]
        step = TrainingStep(recipe, [*overrides, *place, *one])
        flops = step.flops()
        with Operators() as operators:
            step()
    rows = cfg.dataset.batch_size or cfg.dataset.max_tokens // tokens
    ranks = cfg.distributed_training.distributed_world_size
    batch = cfg.task.global_batch or rows * cfg.optimization.update_freq[-1] * ranks
    value = 2 if cfg.common.bf16 or cfg.common.fp16 else 4
    embedding = vocab_size * cfg.model.encoder_embed_dim
    return Work(flops / splits, operators.found.total(), step.parameters, embedding, value, rows, batch, tokens,
                cfg.optimization.max_update)  # fmt: skip


def _write_corpus(folder: Path, vocab_size: int, tokens: int) -> None:
    dictionary = Dictionary()
    for number in range(vocab_size):
        dictionary.add_symbol(f"w{number}")
    dictionary.save(str(folder / "dict.txt"))
    with ArrayWriter(folder / "train") as writer:
        writer.add(np.random.default_rng(1).integers(dictionary.nspecial, len(dictionary), 4 * tokens))


def update_time(work: Work, cluster: Cluster, *, gpus: int, global_batch: int | None = None) -> Update:
    """Return what an update takes; ``global_batch``: in place of the recipe's, at least a row for each GPU."""
    global_batch = global_batch or work.global_batch
    if gpus > global_batch:
        raise UserError(
            f"{global_batch:,} rows are not enough for {gpus:,} GPUs: give a larger task.global_batch=ROWS"
        )
    share = math.ceil(global_batch / gpus)
    number = math.ceil(share / work.rows)
    rows = math.ceil(share / number)
    arithmetic = work.flops / (cluster.peak * cluster.utilisation)  # of a row
    each = max(rows * arithmetic, work.operators * cluster.launch)
    tied = work.embedding * work.gradient_bytes
    hidden = _reduced(cluster, work.parameters * work.gradient_bytes - tied, gpus, cluster.bucket)
    exposed = max(0.0, hidden - each * 2 / 3) + _reduced(cluster, tied, gpus)
    optimizer = work.parameters * STATE_BYTES / cluster.memory_bandwidth
    efficiency = global_batch / gpus * arithmetic / (number * each + exposed + optimizer)
    return Update(gpus, rows, number, number * each, exposed, optimizer, efficiency)


def best_batch(work: Work, cluster: Cluster, *, gpus: int, efficiency: float) -> int:
    """Return the smallest doubling of the recipe's batch that reaches ``efficiency`` there; 0: none of ten."""
    for batch in (work.global_batch * 2**power for power in range(11)):
        if update_time(work, cluster, gpus=gpus, global_batch=batch).efficiency >= efficiency:
            return batch
    return 0


def _reduced(cluster: Cluster, num_bytes: float, gpus: int, bucket: float = math.inf) -> float:
    """Seconds that reducing so many bytes of gradients takes, in buckets of ``bucket`` bytes."""
    inside = min(gpus, cluster.node_size)
    nodes = math.ceil(gpus / cluster.node_size)
    buckets = max(1, math.ceil(num_bytes / bucket))
    within = 2 * (inside - 1) / inside * num_bytes / cluster.node_bandwidth
    across = 2 * (nodes - 1) / nodes * num_bytes / inside / cluster.network_bandwidth
    return within + across + buckets * 2 * (inside - 1 + nodes - 1) * cluster.latency
