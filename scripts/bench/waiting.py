"""What people wait for, before (commit b29ddcb, measured for issue 20) and now, in one table: counts, no GPU needed.

launches      operators of an update of mlm_base, bf16, fused_adamw, each a launch on a GPU (views left out)
positions     entries that an accumulating index_put sums in an update with T5's relative positions
products      matrix products of the vocabulary's size in the loss at 50% masked of V = 50,000
lines         private memory that a process holds of a corpus whose lines are rows
muon          CPU time of a whole step with Muon over that with fused_adamw, 16 rows of 40 tokens, in turns

python scripts/bench/waiting.py
python scripts/bench/waiting.py --only muon --steps 30
"""

import argparse
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F
from common import environment, write_corpus, write_csv
from fairseq import utils
from fairseq.optim.fp16_optimizer import FP16Optimizer, _FP16OptimizerMixin
from systems import Run, Setting
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fairseq_masking.data import BlockDataset, load_dictionary, load_tokens
from fairseq_masking.figures.tables import format_table
from fairseq_masking.ops import linear_cross_entropy, self_attention
from fairseq_masking.ops.linear_cross_entropy.chunks import most_bytes

VIEWS = {"view", "_unsafe_view", "t", "transpose", "permute", "detach", "alias", "select", "slice", "split", "unbind",
         "unsqueeze", "squeeze", "expand", "as_strided", "split_with_sizes", "unfold", "diagonal"}  # fmt: skip


class Row(NamedTuple):
    """A line of the table; ``before`` is empty where nothing was measured then."""

    item: str
    what: str
    before: float | str
    now: float


class Count(TorchDispatchMode):
    """Counts the operators that do something, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.summed = 0  # elements that an accumulating index_put adds

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__
        self.found[name] += name not in VIEWS
        if name in ("index_put", "index_put_"):
            self.summed += args[2].numel()
        return func(*args, **(kwargs or {}))


def counted_update(data: Path, arch: str, tokens: int, *more: str) -> Count:
    """Count an update's operators on the meta device, where the code takes the GPU's paths."""
    setting = Setting(str(data), arch, tokens, 4, "fp32", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        run = Run(setting, "fairseq_masking+fused_adamw", folder, num_batches=1, more=more)
    trainer, device = run.trainer, torch.device("meta")
    model, criterion = (each.to(device, torch.bfloat16) for each in (trainer.model, trainer.criterion))
    trainer.cfg.common.bf16 = True
    optimizer = FP16Optimizer.build_optimizer(trainer.cfg, list(model.parameters()))
    sample = utils.apply_to_sample(lambda tensor: tensor.to(device), next(run.batches)[0])
    for number in range(2):  # the first makes the moments
        with Count() as count:
            optimizer.zero_grad()
            _, size, _ = trainer.task.train_step(sample, model, criterion, optimizer, number)
            optimizer.multiply_grads(1 / size)
            optimizer.clip_grad_norm(1.0)
            optimizer.step()
    return count


def launches(data: Path, steps: int) -> list[Row]:
    with ExitStack() as stack:
        for name in ("_sync_fp16_grads_to_fp32", "_sync_fp32_params_to_fp16", "zero_grad"):
            fairseqs = getattr(_FP16OptimizerMixin, name).__wrapped__
            stack.enter_context(mock.patch.object(_FP16OptimizerMixin, name, fairseqs))
        before = sum(counted_update(data, "base", 32).found.values())
    found = counted_update(data, "base", 32).found
    total, attentions = sum(found.values()), found["_safe_softmax"]
    saved = before - total
    # In pieces on this device; on a GPU a kernel forward and one backward, which attention stacks its gradients for.
    projected = torch.zeros(2, 8, 3, 2, 4, device="meta", dtype=torch.bfloat16, requires_grad=True)
    for pieces, kernels, calls in (
        (_pieces(lambda: self_attention(projected, dropout=0.1), projected), 3, attentions),
        (_pieces(lambda: F.dropout(projected, 0.1), projected), 2, found["bernoulli_"] - attentions),
    ):
        total -= calls * (pieces - kernels)
    return [Row("20.1", "operators of an update, mlm_base, bf16, fused_adamw", total + saved, total)]


def _pieces(function: Callable[[], Tensor], values: Tensor) -> int:
    with Count() as count:
        result = function()
        torch.autograd.grad(result, values, torch.empty_like(result))
    return sum(count.found.values()) - 1  # the gradient that is given


def positions(data: Path, steps: int) -> list[Row]:
    summed = counted_update(data, "tiny", 512, "--relative-position", "t5").summed
    return [Row("20.2", "entries that index_put sums up, relative positions, 512 tokens, 2 heads", 2 * 512**2, summed)]


def products(data: Path, steps: int) -> list[Row]:
    num, vocabulary, width = 64 * 512 // 2, 50_368, 768  # half of mlm_base's 64 x 512 tokens

    def flops(most: int) -> float:
        hidden = torch.empty(num, width, device="meta", dtype=torch.bfloat16, requires_grad=True)
        weight = torch.empty(vocabulary, width, device="meta", dtype=torch.bfloat16, requires_grad=True)
        targets = torch.empty(num, device="meta", dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            linear_cross_entropy(hidden, weight, None, targets, chunk_elements=most // 2).losses_N.sum().backward()
        return counter.get_total_flops() / (2 * num * vocabulary * width)

    gpu = SimpleNamespace(total_memory=80 << 30)
    with mock.patch("torch.cuda.get_device_properties", return_value=gpu):
        now = most_bytes(torch.device("cuda"), 512 << 20)
    return [Row("20.5", "products over V = 50k in the loss at 50% masked, GPU of 80 GB", flops(512 << 20), flops(now))]


def lines(data: Path, steps: int) -> list[Row]:
    folder = write_corpus(data.parent / "lines", 1000, 50_000)
    tokens = load_tokens(str(folder / "train"), load_dictionary(folder / "dict.txt"))
    tracemalloc.start()
    blocks = BlockDataset(tokens, tokens_per_sample=64, bos=0, pad=1, eos=2, break_mode="eos")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return [Row("20.7", "private bytes a line of --sample-break-mode eos", 24, round(held / len(blocks), 2))]


def muon(data: Path, steps: int) -> list[Row]:
    rows = []
    for arch, before in (("tiny", 1.36), ("modern_tiny", "")):
        with tempfile.TemporaryDirectory() as folder:
            setting = Setting(str(data), arch, 40, 16, "fp32", "cpu")
            names = ("fairseq_masking+rotary+muon", "fairseq_masking+rotary+fused_adamw")
            runs = {name: Run(setting, name, folder) for name in names}
            seconds: dict[str, list[float]] = {name: [] for name in names}
            for turn in range(steps + 3):
                for name in names if turn % 2 else names[::-1]:
                    started = time.process_time()
                    runs[name].step()
                    seconds[name] += [time.process_time() - started] if turn > 2 else []
        ratio = statistics.median(seconds[names[0]]) / statistics.median(seconds[names[1]])
        rows.append(Row("17.5", f"CPU time of a step with Muon over fused_adamw, {arch}", before, round(ratio, 3)))
    return rows


PARTS: dict[str, Callable[[Path, int], list[Row]]] = {
    part.__name__: part for part in (launches, positions, products, lines, muon)
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--steps", type=int, default=30, help="steps of each, where times are compared")
    parser.add_argument("--out", default="scripts/bench/results/waiting.csv")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        data = write_corpus(Path(folder) / "data", 4000)
        for part in args.only:
            rows += PARTS[part](data, args.steps)
            write_csv(args.out, [{**row._asdict(), **environment("cpu")} for row in rows])
    print(format_table(["item", "what", "before", "now"], [[str(value) for value in row] for row in rows]))


if __name__ == "__main__":
    main()
