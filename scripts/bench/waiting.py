"""What people wait for, before (commit b29ddcb, of which issue 20 was written) and now, in one table. No GPU needed.

launches      operators of an update of mlm_base, bf16, fused_adamw, each a launch on a GPU (views left out)
positions     entries that an accumulating index_put sums in an update with T5's relative positions
padding       tokens of fine-tuning's batches over those of their rows; scores are pools.py's
starts        CPU seconds of a help, of the first update, of a further run of fine-tuning
products      matrix products of the vocabulary's size in the loss at 50% masked of V = 50,000
graphs        graphs that two epochs with a short batch each compile, the first one's included
lines         private memory that a process holds of a corpus whose lines are rows
batching      CPU time of batching these lines over that of full rows
preparation   MB of text a second of CPU: all of it, with a tokeniser that is there; two workers' speed over one's
scale         efficiency of mlm_base on H100s, on paper; bytes of the optimizer's state of the rank with most
figures       what step.py, huggingface.py and operations.py found, from their files
muon          CPU time of a whole step with Muon over that with fused_adamw, 16 rows of 40 tokens, in turns

``how`` says where "before" comes from: the old way counted by this script; the old commit, which git has, run here in
turns with this one; or issue 20's text, on another machine. ``--only`` keeps the other rows of ``--out``.

    python scripts/bench/waiting.py
    python scripts/bench/waiting.py --only muon --steps 30
"""

import argparse
import ctypes
import lzma
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.distributed as dist
import torch.nn.functional as F
from common import FAIRSEQ_TRAIN, environment, read_csv, write_corpus, write_csv
from fairseq import utils
from fairseq.optim.fp16_optimizer import FP16Optimizer, _FP16OptimizerMixin
from pools import padding as padding_of
from pools import prepare_tasks
from systems import Run, Setting
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fairseq_masking.corpus.binarization import binarize
from fairseq_masking.corpus.manifest import load_tokenizer
from fairseq_masking.data import BlockDataset, load_dictionary, load_tokens
from fairseq_masking.figures.tables import format_table
from fairseq_masking.measure.cost import Operators
from fairseq_masking.measure.scale import Cluster, update_time, work_of
from fairseq_masking.methods.base.options import SIZES
from fairseq_masking.methods.mlm.model import MLMConfig, MLMModel
from fairseq_masking.modules.layer import TransformerLayer
from fairseq_masking.ops import linear_cross_entropy, self_attention
from fairseq_masking.ops.linear_cross_entropy.chunks import most_bytes
from fairseq_masking.tasks.masked_pretraining import MaskedPretrainingTask

ROOT = Path(__file__).resolve().parents[2]
OLD = "b29ddcb"
COUNTED, IN_TURNS, ISSUE = "counted here", f"{OLD} run here", "issue 20, another machine"
RESULTS = ROOT / "scripts/bench/results"
TURNS = 2  # of what is timed, the least of which counts
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


class Row(NamedTuple):
    """A line of the table; ``before`` is empty where nothing is known of then."""

    item: str
    what: str
    before: float | str
    now: float
    how: str = COUNTED
    file: str = "waiting.csv"


@dataclass
class Bench:
    """What the parts share."""

    folder: Path
    steps: int
    shared: Path  # GLUE's files and corpora

    @cached_property
    def data(self) -> Path:
        return write_corpus(self.folder / "data", 4000)

    @cached_property
    def text(self) -> Path:
        return ROOT / "scripts/quickstart/sotu.txt.xz"

    @cached_property
    def old(self) -> Path | None:
        """The code of ``OLD``; None where there is no git that has it."""
        place = self.folder / "old"
        place.mkdir()
        tree = subprocess.run(["git", "archive", OLD, "fairseq_masking", "configs"], cwd=ROOT, capture_output=True)
        return None if tree.returncode else subprocess.run(["tar", "-xC", place], input=tree.stdout) and place

    def compared(self, item: str, what: str, command: Callable[[Path, int], list[str]], *, rate: float = 0.0) -> Row:
        """Return the CPU seconds of a Python process, old and new in turns, or ``rate`` over them.

        Args:
            command: from a tree and the number of the turn.
        """
        seconds = defaultdict(list)
        for turn in range(TURNS):
            for tree in filter(None, (self.old, ROOT)):
                seconds[tree].append(self.seconds(tree, command(tree, turn)))
        before, now = (min(seconds.get(tree, [0.0])) for tree in (self.old, ROOT))
        before, now = (round(rate / each if rate and each else each, 2) for each in (before, now))
        return Row(item, what, before or "", now, IN_TURNS)

    def seconds(self, tree: Path, arguments: Sequence[str]) -> float:
        """Return the CPU seconds of a Python process under one of the trees, and of its own processes."""
        path = {"PYTHONPATH": f"{tree}:{tree / 'fairseq_masking/hydra'}", "OMP_NUM_THREADS": "1"}
        ctypes.CDLL(None).prctl(_SUBREAPER, 1)  # what the process leaves behind becomes a child of this one: it counts
        before = os.times()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, cwd=self.folder,
                       env={**os.environ, **path})  # fmt: skip
        with suppress(ChildProcessError):  # a fork server that it left behind
            while os.wait():
                pass
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    def verb(self, tree: Path, name: str, *arguments: Any) -> list[str]:
        """Return what runs a verb: a module of its own in the old tree."""
        module = (
            ["fairseq_masking", *name.split()] if tree == ROOT else [f"fairseq_masking.cli.{name.replace(' ', '_')}"]
        )
        return ["-m", *module, *map(str, arguments)]


class Count(Operators):
    """Counts the operators that do something, and the elements that an accumulating index_put adds."""

    summed = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func.overloadpacket.__name__ in ("index_put", "index_put_"):
            self.summed += args[2].numel()
        return super().__torch_dispatch__(func, types, args, kwargs)


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


def launches(bench: Bench) -> list[Row]:
    with ExitStack() as stack:
        for name in ("_sync_fp16_grads_to_fp32", "_sync_fp32_params_to_fp16", "zero_grad"):
            fairseqs = getattr(_FP16OptimizerMixin, name).__wrapped__
            stack.enter_context(mock.patch.object(_FP16OptimizerMixin, name, fairseqs))
        before = counted_update(bench.data, "base", 32).found.total()
    found = counted_update(bench.data, "base", 32).found
    total, attentions = found.total(), found["_safe_softmax"]
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
    gradient = torch.empty_like(function())
    with Count() as count:
        torch.autograd.grad(function(), values, gradient)
    return count.found.total()


def positions(bench: Bench) -> list[Row]:
    summed = counted_update(bench.data, "tiny", 512, "--relative-position", "t5").summed
    return [Row("20.2", "entries that index_put sums up, relative positions, 512 tokens, 2 heads", 2 * 512**2, summed)]


def padding(bench: Bench) -> list[Row]:
    rows = []
    if (bench.shared / "glue").is_dir():
        corpus = bench.folder / "tokeniser"
        bench.seconds(ROOT, bench.verb(ROOT, "prepare corpus", "--train", bench.text, "--out", corpus))
        for task, data in prepare_tasks(corpus, bench.shared / "glue", bench.folder / "tasks", 100_000).items():
            ratio = padding_of(data)
            rows.append(Row("20.3", f"tokens with padding over tokens, {task}", ratio["random"], ratio["pools"]))
    scores = defaultdict(list)
    for row in read_csv(RESULTS / "pools.csv"):
        scores[row["task"], row["metric"], row["order"]].append(float(row["score"]))
    for task, metric in dict.fromkeys(key[:2] for key in scores):
        found = [scores[task, metric, order] for order in ("random", "pools")]
        spread = " and ".join(f"{statistics.stdev(each):.1f}" for each in found)
        what = f"{metric} of {task}, {len(found[0])} seeds, s.d. {spread}"
        rows.append(Row("20.3", what, *(round(statistics.mean(each), 2) for each in found), file="pools.csv"))
    return rows


def starts(bench: Bench) -> list[Row]:
    training = f"""{bench.data} --cpu --task masked_pretraining --arch mlm_tiny --criterion mlm --tokens-per-sample 32
        --batch-size 4 --max-update 1 --optimizer adam --lr 1e-3 --num-workers 0 --no-save --disable-validation"""

    def update(tree: Path, turn: int) -> list[str]:
        return ["-c", FAIRSEQ_TRAIN, *training.split(), "--user-dir", str(tree / "fairseq_masking")]

    rows = [
        bench.compared("20.4", "CPU s of finetune --help", lambda tree, _: bench.verb(tree, "finetune", "--help")),
        bench.compared("20.4", "CPU s to fairseq-train's first update and out", update),
    ]
    sentences, tuned = bench.folder / "SST-2", {}
    sentences.mkdir()
    for split, number in (("train", 64), ("dev", 32)):
        lines = [f"{('a bad', 'a good')[row % 2]} film {row}\t{row % 2}\n" for row in range(number)]
        (sentences / f"{split}.tsv").write_text("".join(["sentence\tlabel\n", *lines]))
    (bench.folder / "some.txt").write_text("".join(f"a good film {row} and a bad one\n" for row in range(1000)))
    for tree in filter(None, (bench.old, ROOT)):
        corpus = bench.folder / f"corpus_{tree.name}"
        made = ["--train", bench.folder / "some.txt", "--out", corpus, "--vocab-size", 60]
        bench.seconds(tree, bench.verb(tree, "prepare corpus", *made))
        given = ["--scratch", "mlm_tiny", "--task", f"SST-2={sentences}", "--corpus", corpus, "--protocol", "tiny"]
        fixed = ["--set", "optimization.lr=[1e-3]", "optimization.max_epoch=1"]
        one, three = (
            bench.seconds(tree, bench.verb(tree, "finetune", *given, *fixed, "--seeds", seeds, "--out",
                                           bench.folder / f"tuned_{tree.name}_{seeds}"))
            for seeds in (1, 3)
        )  # fmt: skip
        tuned[tree] = round((three - one) / 2, 2)
    before = tuned.get(bench.old, "")
    return [*rows, Row("20.4", "CPU s of a further run of finetune, 64 rows", before, tuned[ROOT], IN_TURNS)]


def products(bench: Bench) -> list[Row]:
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


METHODS = {
    "MLM": "",
    "K = 4": "--criterion fully_explored_mlm --mask-splits 4",
    "3ML": "--arch three_ml_tiny",
    "AMOS": "--arch amos_tiny --criterion amos",
    "MAP-Net": "--arch map_net_tiny --criterion map_net",
}


def graphs(bench: Bench) -> list[Row]:
    data = write_corpus(
        bench.folder / "short", 4000, 40
    )  # two batches of 12 rows and one of 8; with K = 4 eleven and one
    return [
        Row("20.6", f"graphs of two epochs that end on a short batch, {name}", *(
            _graphs(data, options.split(), drops) for drops in (False, True)
        ))
        for name, options in METHODS.items()
    ]  # fmt: skip


def _graphs(data: Path, options: list[str], drops: bool) -> int:
    """Count what two epochs compile, short batches left out (``drops``) or not."""
    from torch._dynamo.testing import CompileCounter  # seconds of imports, which the other parts need not wait for

    torch._dynamo.reset()
    counter = CompileCounter()

    def compiled(layer: nn.Module, **_: Any) -> None:
        nn.Module.compile(layer, backend=counter, fullgraph=True)

    cut = MaskedPretrainingTask._cut_to_whole_updates
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:

        def replace(*args: Any) -> None:
            stack.enter_context(mock.patch.object(*args))

        replace(TransformerLayer, "compile", compiled)
        replace(MaskedPretrainingTask, "_cut_to_whole_updates", lambda *args, full: cut(*args, full=full and drops))
        run = Run(
            Setting(str(data), "tiny", 32, 12, "fp32", "cpu"), "fairseq_masking+compile", folder, 1, more=options
        )
        for epoch in (1, 2):
            run.trainer.begin_epoch(epoch)
            for batch in run.trainer.get_train_iterator(epoch, load_dataset=False).next_epoch_itr(shuffle=False):
                run.trainer.train_step([batch])
    return counter.frame_count


def lines(bench: Bench) -> list[Row]:
    folder = write_corpus(bench.folder / "lines", 1000, 50_000)
    tokens = load_tokens(str(folder / "train"), load_dictionary(folder / "dict.txt"))
    tracemalloc.start()
    blocks = BlockDataset(tokens, tokens_per_sample=64, bos=0, pad=1, eos=2, break_mode="eos")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    before = (blocks._all_slices().nbytes + 8 * len(blocks)) / len(blocks)  # a table, and sizes of 8 bytes
    now = round(held / len(blocks), 2)
    return [Row("20.7", "private bytes a line of --sample-break-mode eos", before, now)]


BATCHING = """
import sys, time, fairseq_masking
from fairseq import options, tasks
given = [sys.argv[1], "--task", "masked_pretraining", "--arch", "mlm_tiny", "--criterion", "mlm"]
for mode in ("none", "eos"):
    parser = options.get_training_parser()
    task = tasks.setup_task(options.parse_args_and_arch(parser, [*given, "--sample-break-mode", mode]))
    started = time.process_time()
    task.load_dataset("train", combine=True)
    loaded = time.process_time()
    batches = task.get_batch_iterator(task.dataset("train"), max_sentences=32, max_positions=512, epoch=1)
    rows = sum(map(len, batches.frozen_batches))
    print(time.process_time() - started, (time.process_time() - loaded) / rows)
"""


def batching(bench: Bench) -> list[Row]:
    folder = write_corpus(bench.folder / "many", 1000, 200_000)
    ratios = {}
    for tree in filter(None, (bench.old, ROOT)):
        path = {**os.environ, "PYTHONPATH": f"{tree}:{tree / 'fairseq_masking/hydra'}"}
        command = [sys.executable, "-c", BATCHING, str(folder)]
        said = subprocess.run(command, check=True, capture_output=True, text=True, env=path).stdout.split()
        none, none_a_row, eos, eos_a_row = map(float, said[-4:])
        ratios[tree] = round(eos / none, 2), round(eos_a_row / none_a_row, 2)
    what = ("cutting and batching 200,000 lines, eos over none", "batching a row, eos over none")
    before, now = ratios.get(bench.old, ("", "")), ratios[ROOT]
    return [Row("20.7", f"CPU time of {name}", *pair, IN_TURNS) for name, *pair in zip(what, before, now, strict=True)]


def preparation(bench: Bench) -> list[Row]:
    addresses = lzma.decompress(bench.text.read_bytes())
    texts = {"sentences": addresses.replace(b". ", b".\n"), "addresses": addresses}
    if (corpora := bench.shared / "corpus").is_dir():
        files = [corpora / f"{name}.train.txt.xz" for name in ("general", "cs")]
        texts["two corpora"] = b"".join(lzma.decompress(path.read_bytes()) for path in files)
    for name, text in texts.items():
        (bench.folder / f"{name}.txt").write_bytes(text)

    def whole(tree: Path, turn: int, *more: Any, name: str = "sentences") -> list[str]:
        out = bench.folder / f"prepared_{tree.name}_{turn}_{len(more)}_{name}"
        return bench.verb(tree, "prepare corpus", "--train", bench.folder / f"{name}.txt", "--out", out, *more)

    size = len(addresses) / 1e6
    rows = [bench.compared("20.8", f"MB of text a second of CPU, prepare corpus, {size:.0f} MB", whole, rate=size)]
    (model,) = (bench.folder / f"prepared_{ROOT.name}_0_0_sentences").glob("**/*.model")
    known = ("--tokenizer", "sentencepiece", "--sentencepiece-model", model)
    for name, text in texts.items():
        size = len(text) / 1e6
        what = f"the same with a tokeniser that is there, {size:.0f} MB, {name}"
        rows.append(bench.compared("20.8", what, lambda *at, name=name: whole(*at, *known, name=name), rate=size))
    # The last and largest text.
    prepared = bench.folder / f"prepared_{ROOT.name}_0_{len(known)}_{name}"
    tokenizer, dictionary = load_tokenizer(prepared), load_dictionary(prepared / "dict.txt")
    walls = defaultdict(list)
    for workers in TURNS * (1, 2):
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
            output = Path(folder, "train")
            binarize(bench.folder / f"{name}.txt", output, tokenizer, dictionary, workers=workers, progress=abs)
        walls[workers].append(time.perf_counter() - started)
    speed = round(min(walls[1]) / min(walls[2]), 2)
    what = f"two workers' speed over one's in binarising, {name}, wall clock, load {os.getloadavg()[0]:.1f}"
    return [*rows, Row("20.8", what, "", speed)]


PAPER = {8: 98, 64: 78, 256: 32}  # percent, issue 20


def scale(bench: Bench) -> list[Row]:
    work = work_of(ROOT / "configs/pretrain/mlm_base.yaml", [], vocab_size=50_265)
    rows = [
        Row("20.9", f"efficiency of mlm_base on {gpus} H100, on paper, %", before,
            round(100 * update_time(work, Cluster(), gpus=gpus).efficiency), "issue 20, by other assumptions")
        for gpus, before in PAPER.items()
    ]  # fmt: skip
    with torch.device("meta"):
        model = MLMModel(MLMConfig(**vars(SIZES["large"])), vocab_size=50_265, pad_index=1)
    values = shares(model, 8)
    moments = [round(8 * number / 1e6) for number in (sum(values), max(values))]  # two in fp32
    return [*rows, Row("20.9", "MB of the optimizer's state, mlm_large, of 8 ranks the one with most", *moments)]


def shares(model: nn.Module, ranks: int) -> list[int]:
    """Return how many values of the parameters each rank keeps the optimizer's state of (``--zero-sharding os``)."""
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        sharded = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW)
        groups = sharded._partition_parameters()
    finally:
        dist.destroy_process_group()
    return [sum(parameter.numel() for group in rank for parameter in group["params"]) for rank in groups]


BUSY = {  # times of ours over these systems', by shape: issue 20, on a busy machine
    ("stock_fairseq", "small", "8"): 1.25,
    ("stock_fairseq", "small", "32"): 0.99,
    ("bert", "small", "8"): 1.49,
    ("modernbert", "small", "8"): 1.32,
}


def figures(bench: Bench) -> list[Row]:
    rows = []
    for file in ("step.csv", "huggingface.csv"):
        times: dict[tuple[str, ...], dict[str, Any]] = defaultdict(dict)
        for row in read_csv(RESULTS / file):
            times[row["arch"], row["rows"], row["tokens"]][row["system"]] = row
        for (arch, number, tokens), systems in times.items():
            for name, row in systems.items():
                ours = systems.get("fairseq_masking+modern" if "modern" in name else "fairseq_masking")
                if ours and not name.startswith("fairseq_masking"):
                    ratio = round(float(row["step_ms"]) / float(ours["step_ms"]), 2)
                    quartiles = f"{ours['step_quartiles_ms']} and {row['step_quartiles_ms']} ms"
                    what = f"{name}'s step over ours, {arch}, {number} x {tokens}, {quartiles}"
                    before = BUSY.get((name, arch, number), "")
                    rows.append(Row("20.10", what, before, ratio, ISSUE if before else "", file))
    for row in read_csv(RESULTS / "operations.csv"):
        if row["impl"] == "torch" and row["memory_of_naive"]:
            what = f"memory of {row['operation']}, {row['masked']} masked, over plain PyTorch's"
            rows.append(Row("20.10", what, "", float(row["memory_of_naive"]), "", "operations.csv"))
    return rows


def muon(bench: Bench) -> list[Row]:
    rows = []
    for arch, before in (("tiny", 1.36), ("modern_tiny", "")):
        with tempfile.TemporaryDirectory() as folder:
            setting = Setting(str(bench.data), arch, 40, 16, "fp32", "cpu")
            names = ("fairseq_masking+rotary+muon", "fairseq_masking+rotary+fused_adamw")
            runs = {name: Run(setting, name, folder) for name in names}
            seconds: dict[str, list[float]] = {name: [] for name in names}
            for turn in range(bench.steps + 3):
                for name in names if turn % 2 else names[::-1]:
                    started = time.process_time()
                    runs[name].step()
                    seconds[name] += [time.process_time() - started] if turn > 2 else []
        ratio = statistics.median(seconds[names[0]]) / statistics.median(seconds[names[1]])
        what = f"CPU time of a step with Muon over fused_adamw, {arch}"
        rows.append(Row("17.5", what, before, round(ratio, 3), "issue 17, another machine"))
    return rows


PARTS: dict[str, Callable[[Bench], list[Row]]] = {
    part.__name__: part
    for part in (
        launches,
        positions,
        padding,
        starts,
        products,
        graphs,
        lines,
        batching,
        preparation,
        scale,
        figures,
        muon,
    )
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--steps", type=int, default=30, help="steps of each, where times are compared")
    parser.add_argument(
        "--shared", type=Path, default=ROOT.parent / "shared/data", help="folder of corpus/, glue/CoLA and SST-2"
    )
    parser.add_argument("--out", default=RESULTS / "waiting.csv")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    table = read_csv(args.out)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), args.steps, args.shared)
        for part in args.only:
            started = time.process_time() + sum(os.times()[2:4])
            found = [{"part": part, **row._asdict(), **environment("cpu")} for row in PARTS[part](bench)]
            table = [row for row in table if row["part"] != part] + found
            table.sort(key=lambda row: list(PARTS).index(row["part"]))
            write_csv(args.out, table)
            print(f"{part}: {time.process_time() + sum(os.times()[2:4]) - started:.0f} s of CPU", flush=True)
    columns = list(Row._fields)
    print(format_table(columns, [[str(row[key]) for key in columns] for row in table]))


if __name__ == "__main__":
    main()
