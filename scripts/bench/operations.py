"""Each operation of ``ops/`` against naive PyTorch: time and peak memory of forward and backward.

    linear_cross_entropy  N masked tokens, V symbols; naive: F.linear, then F.cross_entropy in fp32, without
                          the arg max that ours also returns
    gumbel_mixture        the same N and V, 3 depths; naive: F.gumbel_softmax(hard=True), then the embedding
    gumbel_noise          its noise; naive: exponential_ and log_
    self_attention        rows of --tokens tokens, dropout 0.1; naive: F.scaled_dot_product_attention
    dropout               the same activations; naive: F.dropout

To add one: a function from a ``Size`` to its contenders in ``OPERATIONS``.

    python scripts/bench/operations.py --masked 1024 2048 4096 --vocabulary 32768
    python scripts/bench/operations.py --only gumbel_mixture --masked 500 1000 2000 4000 10000 \\
        --steps 1 --turns 3 --out scripts/bench/results/gumbel_mixture.csv
    python scripts/bench/operations.py --device cuda --precision bf16 --masked 1024 4096 20480 \\
        --vocabulary 30522 65536 --width 768 --only linear_cross_entropy
"""

import argparse
import math
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import common as bench
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_masking.methods.amos.gumbel_mixture import gumbel_mixture
from fairseq_masking.methods.amos.gumbel_mixture.chunks import row_keys
from fairseq_masking.methods.amos.gumbel_mixture.torch_rows import add_gumbel_noise_
from fairseq_masking.ops import dropout, linear_cross_entropy, self_attention

MEMORY_TARGETS = {"linear_cross_entropy": 0.1, "gumbel_mixture": 0.05}
NAIVE = "naive"
DROPOUT, HEAD_WIDTH = 0.1, 64
DEPTHS, TEMPERATURE = 3, 0.3
OVER_VOCABULARY = ("linear_cross_entropy", "gumbel_mixture", "gumbel_noise")


@dataclass(frozen=True)
class Size:
    """What the tensors of a case measure."""

    masked: int
    vocabulary: int
    width: int
    rows: int
    tokens: int
    device: str
    precision: str

    def toy(self) -> "Size":
        """Return a size that takes no memory."""
        small = {"masked": 8, "vocabulary": 64, "rows": 2, "tokens": 8}
        return replace(self, **{key: min(most, getattr(self, key)) for key, most in small.items()})

    def random(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Return a random leaf that wants a gradient."""
        values = torch.randn(*shape, device=self.device) * scale
        return values.to(bench.PRECISIONS[self.precision]).requires_grad_()


Contenders = dict[str, Callable[[], None]]


def _linear_cross_entropy(size: Size) -> Contenders:
    hidden = size.random(size.masked, size.width)
    weight = size.random(size.vocabulary, size.width, scale=size.width**-0.5)
    bias = size.random(size.vocabulary, scale=0.02)
    targets = torch.randint(size.vocabulary, (size.masked,), device=size.device)
    leaves = (hidden, weight, bias)

    def naive(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(hidden, weight, bias).float(), targets)

    def ours(impl: str) -> Callable[..., Tensor]:
        return lambda *leaves: linear_cross_entropy(*leaves, targets, impl=impl).losses_N.mean()

    return _against_naive(size, naive, ours, leaves)


def _gumbel_mixture(size: Size) -> Contenders:
    hidden = size.random(DEPTHS, size.masked, size.width).detach()
    features = size.random(size.masked, DEPTHS)
    embedding = size.random(size.vocabulary, size.width, scale=size.width**-0.5)
    bias = size.random(size.vocabulary, scale=0.02).detach()
    leaves = (features, embedding)

    def naive(features: Tensor, embedding: Tensor) -> Tensor:
        mixed = torch.einsum("nk,knd->nd", features.softmax(-1), hidden)
        logits = F.linear(mixed, embedding.detach(), bias).float()
        sample = F.gumbel_softmax(logits, tau=TEMPERATURE, hard=True)
        return (sample.to(embedding.dtype) @ embedding).float().sum()

    def ours(impl: str) -> Callable[..., Tensor]:
        def loss(features: Tensor, embedding: Tensor) -> Tensor:
            weights = features.softmax(-1)
            mixture = gumbel_mixture(
                hidden, weights, embedding, bias, temperature=TEMPERATURE, scale=1.0, seed=1, impl=impl
            )
            return mixture.embedded_ND.float().sum()

        return loss

    return _against_naive(size, naive, ours, leaves)


def _gumbel_noise(size: Size) -> Contenders:
    values = torch.zeros(size.masked, size.vocabulary, device=size.device)
    generator = torch.Generator(size.device).manual_seed(1)

    def naive() -> None:
        values.sub_(torch.empty_like(values).exponential_(generator=generator).log_())

    def uniform() -> None:
        values.sub_(torch.empty_like(values).uniform_(generator=generator).log_().neg_().log_())

    def numpy_philox() -> None:
        for row, drawn in enumerate(values.numpy()):
            rng = np.random.Generator(np.random.Philox(key=(1, row)))
            drawn -= np.log(rng.standard_exponential(drawn.size, dtype=np.float32))

    def ours() -> None:
        add_gumbel_noise_(values, row_keys(torch.tensor(1), size.masked, values.device))

    contenders = {NAIVE: naive, "uniform": uniform, "ours": ours}
    return contenders | ({} if size.device == "cuda" else {"numpy philox": numpy_philox})


def _self_attention(size: Size) -> Contenders:
    heads = max(1, size.width // HEAD_WIDTH)
    projected = size.random(size.rows, size.tokens, 3, heads, size.width // heads)

    def naive(projected: Tensor) -> Tensor:
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
        context = F.scaled_dot_product_attention(query, key, value, dropout_p=DROPOUT)
        return context.transpose(1, 2).reshape(size.rows, size.tokens, -1).float().sum()

    def ours(projected: Tensor) -> Tensor:
        return self_attention(projected, None, DROPOUT).float().sum()

    return {NAIVE: _trained(naive, (projected,)), "ours": _trained(ours, (projected,))}


def _dropout(size: Size) -> Contenders:
    hidden = size.random(size.rows, size.tokens, size.width)
    return {
        NAIVE: _trained(lambda hidden: F.dropout(hidden, DROPOUT).float().sum(), (hidden,)),
        "ours": _trained(lambda hidden: dropout(hidden, DROPOUT, True).float().sum(), (hidden,)),
    }


def _against_naive(
    size: Size, naive: Callable[..., Tensor], ours: Callable[[str], Callable[..., Tensor]], leaves: tuple[Tensor, ...]
) -> Contenders:
    contenders = {NAIVE: _trained(naive, leaves), "torch": _trained(ours("torch"), leaves)}
    if size.device == "cuda":
        contenders["naive compiled"] = _trained(torch.compile(naive), leaves)
        contenders["triton"] = _trained(ours("triton"), leaves)
    return contenders


def _trained(loss: Callable[..., Tensor], leaves: tuple[Tensor, ...]) -> Callable[[], None]:
    """Return what runs ``loss`` forward and backward and forgets the gradients."""

    def run() -> None:
        torch.autograd.grad(loss(*leaves), leaves)

    return run


OPERATIONS: dict[str, Callable[[Size], Contenders]] = {
    "linear_cross_entropy": _linear_cross_entropy,
    "gumbel_mixture": _gumbel_mixture,
    "gumbel_noise": _gumbel_noise,
    "self_attention": _self_attention,
    "dropout": _dropout,
}


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = bench.bench_parser(__doc__, steps=3, turns=4, out="scripts/bench/results/operations.csv", data=False)
    parser.add_argument("--only", nargs="+", default=list(OPERATIONS), choices=OPERATIONS, help="operations")
    parser.add_argument("--masked", type=int, nargs="+", default=[1024, 2048, 4096], help="N")
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[32_768], help="V")
    parser.add_argument("--width", type=int, default=256, help="width of the model")
    parser.add_argument("--rows", type=int, default=8, help="rows of attention and dropout")
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 512], help="tokens of those rows")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory (on a CPU)")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def sizes_of(args: argparse.Namespace, operation: str) -> list[Size]:
    """Return the sizes at which an operation is measured: N x V over the vocabulary, lengths elsewhere."""
    rest = (args.device, args.precision)
    if operation in OVER_VOCABULARY:
        return [
            Size(masked, vocabulary, args.width, 0, 0, *rest)
            for vocabulary in args.vocabulary
            for masked in args.masked
        ]
    return [Size(0, 0, args.width, args.rows, tokens, *rest) for tokens in args.tokens]


def measure(args: argparse.Namespace, operation: str, size: Size) -> list[dict[str, Any]]:
    """Return a row of the CSV for each contender."""
    contenders = OPERATIONS[operation](size)
    peaks = dict.fromkeys(contenders, math.nan)
    if args.device == "cuda":
        for name, run in contenders.items():
            run()  # compiles, and takes what it keeps for good
            peaks[name] = bench.added_memory(run, "cuda")
    seconds = bench.take_turns(contenders, steps=args.steps, turns=args.turns)
    if args.device == "cpu" and not args.no_memory:
        for name in contenders:
            peaks[name] = bench.memory_of_child(__file__, child_arguments(args, operation, size, name))
    rows = []
    for name, times in seconds.items():
        median, naive = statistics.median(times), statistics.median(seconds[NAIVE])
        shape = {key: getattr(size, key) or "" for key in ("masked", "vocabulary", "width", "rows", "tokens")}
        row = {"operation": operation, "impl": name, **shape, "precision": size.precision}
        row |= bench.milliseconds(times)
        row["speed_over_naive"] = round(naive / median, 3)
        known = not math.isnan(peaks[name])
        row["peak_mib"] = round(peaks[name], 1) if known else ""
        row["memory_of_naive"] = round(peaks[name] / peaks[NAIVE], 3) if known else ""
        row["load_average"] = round(os.getloadavg()[0], 1)  # above 1: the machine was shared
        rows.append({**row, **bench.environment(args.device)})
        print({key: row[key] for key in row if "quartiles" not in key and row[key] != ""}, flush=True)
        if args.device == "cuda" and operation in MEMORY_TARGETS and name != NAIVE:
            print(
                f"  target: memory_of_naive <= {MEMORY_TARGETS[operation]}, speed_over_naive >= 1; measured"
                f" {row['memory_of_naive']}, {row['speed_over_naive']}"
            )
    return rows


def child_arguments(args: argparse.Namespace, operation: str, size: Size, name: str) -> list[str]:
    """Return the options under which a process measures the memory of one contender."""
    given = {"only": operation, "memory-of": name, "threads": args.threads, "precision": size.precision}
    given |= {key: getattr(size, key) for key in ("masked", "vocabulary", "width", "rows", "tokens")}
    return [text for key, value in given.items() for text in (f"--{key}", str(value))]


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    torch.set_num_threads(args.threads)
    if args.memory_of:
        operation, (size,) = args.only[0], sizes_of(args, args.only[0])
        OPERATIONS[operation](size.toy())[args.memory_of]()  # what is loaded at first use is not counted
        bench.report_memory(OPERATIONS[operation](size)[args.memory_of])
        return
    rows: list[dict[str, Any]] = []
    for operation in args.only:
        for size in sizes_of(args, operation):
            rows += measure(args, operation, size)
            bench.write_csv(args.out, rows)


if __name__ == "__main__":
    main()
