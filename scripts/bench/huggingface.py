"""Our bare model step against Hugging Face's BERT, RoBERTa and ModernBERT: a plain PyTorch loop, fused AdamW for all.

Same shape, batch, masks, dropout and precision (the weights' own; no fp32 copies in any), SDPA attention in
all; ``parameters`` says how many each has. ``+compile`` puts the whole model under torch.compile: theirs by
``torch.compile(model)``, ours by ``--compile full``. BERT and RoBERTa predict all positions, as their loss asks for
it; with ``+sparse`` their head is given the masked ones alone, as ours is and ModernBERT's (its
``sparse_prediction``), whose rival is ``fairseq_masking+modern``, of the same shape.

    python scripts/bench/huggingface.py --arch tiny --tokens 128 --rows 16
    python scripts/bench/huggingface.py --arch small --tokens 512 --rows 8 --vocabulary 8000 --steps 3 \\
        --systems fairseq_masking bert bert+sparse fairseq_masking+modern modernbert
    python scripts/bench/huggingface.py --arch base --tokens 512 --rows 64 --precision bf16 --device cuda
"""

import argparse
import importlib
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import common as bench
import torch
import torch.nn.functional as F
from systems import Setting
from torch import Tensor, nn

from fairseq_masking.methods.base.options import SIZES
from fairseq_masking.methods.mlm.model import MLMConfig, MLMModel

PAD, MASK, FIRST_WORD = 1, 4, 5
OURS = "fairseq_masking"
SYSTEMS = tuple(name + tail for tail in ("", "+compile") for name in (OURS, "bert", "roberta"))
SPARSE = (f"{OURS}+modern", "modernbert", "bert+sparse", "roberta+sparse")
SPEED_TARGET = 1.3


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = bench.bench_parser(__doc__, steps=10, turns=4, out="scripts/bench/results/huggingface.csv", data=False)
    plain = [size for size in SIZES if not size.startswith("modern")]  # of BERT's kind, as what it is compared with
    parser.add_argument("--arch", default="tiny", choices=plain, help="shape of the encoder")
    parser.add_argument("--tokens", type=int, default=128, help="tokens a row")
    parser.add_argument("--rows", type=int, default=16, help="rows a batch")
    parser.add_argument("--vocabulary", type=int, default=30_522, help="symbols")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=(*SYSTEMS, *SPARSE))
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory (on a CPU)")
    parser.add_argument("--append", action="store_true", help="keep the rows that --out has")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


class Loop:
    """A model, its optimizer and one batch."""

    def __init__(self, system: str, setting: Setting, vocabulary: int) -> None:
        base, _, tail = system.partition("+")
        torch.manual_seed(1)
        batch = make_batch(setting, vocabulary)
        make = our_model if base == OURS else partial(their_model, base)
        self.model, self.loss = make(setting, vocabulary, tail, batch)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)

    def step(self) -> None:
        """Take one step of training."""
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def make_batch(setting: Setting, vocabulary: int) -> dict[str, Tensor]:
    """Return random text with the same number of masked tokens in each row, all of them [MASK]."""
    rows, tokens, masked = setting.rows, setting.tokens, setting.num_masked
    src_tokens = torch.randint(FIRST_WORD, vocabulary, (rows, tokens))
    columns = torch.rand(rows, tokens - 2).argsort(1)[:, :masked] + 1
    positions = (torch.arange(rows)[:, None] * tokens + columns).flatten()
    batch = {"src_tokens": src_tokens, "positions": positions, "replacements": torch.full_like(positions, MASK)}
    return {name: value.to(setting.device) for name, value in batch.items()}


def our_model(
    setting: Setting, vocabulary: int, tail: str, batch: dict[str, Tensor]
) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Return our model and what computes its mean loss."""
    size = SIZES[f"modern_{setting.arch}" if tail == "modern" else setting.arch]
    compiled = "full" if tail == "compile" else "none"
    cfg = MLMConfig(**{**vars(size), "max_positions": max(512, setting.tokens)}, compile=compiled)
    model = MLMModel(cfg, vocab_size=vocabulary, pad_index=PAD)
    model = model.to(setting.device, bench.PRECISIONS[setting.precision]).train()
    shape = {"has_padding": False}
    return model, lambda: model(**batch, shape=shape).losses_N.mean()


def their_model(
    base: str, setting: Setting, vocabulary: int, tail: str, batch: dict[str, Tensor]
) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Return a Hugging Face model and what computes its mean loss."""
    try:
        import transformers
    except ImportError:
        raise SystemExit("huggingface.py needs the package transformers: pip install transformers") from None
    name = {"bert": "Bert", "roberta": "Roberta", "modernbert": "ModernBert"}[base]
    size, more = SIZES[setting.arch], {"max_position_embeddings": max(512, setting.tokens) + 2}
    if base == "modernbert":
        size = SIZES[f"modern_{setting.arch}"]  # without dropout, as theirs
        more |= {"sparse_prediction": True}
    config = getattr(transformers, f"{name}Config")(
        vocab_size=vocabulary,
        hidden_size=size.encoder_embed_dim,
        num_hidden_layers=size.encoder_layers,
        num_attention_heads=size.encoder_attention_heads,
        intermediate_size=size.encoder_ffn_embed_dim,
        pad_token_id=PAD,
        attn_implementation="sdpa",
        **more,
    )
    model = getattr(transformers, f"{name}ForMaskedLM")(config)
    model = model.to(setting.device, bench.PRECISIONS[setting.precision]).train()
    flat, positions = batch["src_tokens"].flatten(), batch["positions"]
    labels = torch.full_like(flat, -100).index_copy(0, positions, flat[positions]).view_as(batch["src_tokens"])
    corrupted = flat.index_copy(0, positions, batch["replacements"]).view_as(batch["src_tokens"])
    if tail == "sparse":
        head = model.cls if base == "bert" else model.lm_head

        def loss() -> Tensor:
            hidden = model.base_model(corrupted).last_hidden_state.flatten(0, 1)[positions]
            return F.cross_entropy(head(hidden), flat[positions])

        return model, loss
    forward = torch.compile(model) if tail == "compile" else model
    return model, lambda: forward(input_ids=corrupted, labels=labels).loss


def measure(args: argparse.Namespace, setting: Setting) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row of the CSV for each system, and the names of those that do not work here."""
    loops, peaks, failed = {}, {}, []
    for name in args.systems:
        before = torch.cuda.memory_allocated() if args.device == "cuda" else 0
        try:
            loop = Loop(name, setting, args.vocabulary)
            _steps(loop, 2)  # what is compiled is compiled here
        except Exception as error:  # one that does not work must not cost the others' numbers
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            failed.append(name)
            continue
        loops[name] = loop
        if args.device == "cuda":
            peaks[name] = bench.added_memory(lambda loop=loop: _steps(loop, 2), "cuda", before)
        elif not args.no_memory and "compile" not in name:  # compiling takes more than the step
            shared = [*setting.arguments()[2:], "--vocabulary", str(args.vocabulary)]
            peaks[name] = bench.memory_of_child(__file__, [*shared, "--memory-of", name])
    contenders: dict[str, Callable[[], Any]] = {name: loop.step for name, loop in loops.items()}
    bests: list[float] = []
    seconds = bench.take_turns(
        contenders,
        steps=args.steps,
        turns=args.turns,
        between=lambda: bests.append(bench.matmul_peak(args.device, args.precision)),
    )
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        row = {"system": name, **setting.columns(), "vocabulary": args.vocabulary}
        row |= {"parameters": loops[name].parameters, **bench.milliseconds(times, "step_")}
        row["tokens_per_s"] = round(setting.tokens * setting.rows / median)
        for other in (*SYSTEMS[1:3], *SYSTEMS[4:], *SPARSE[1:]):
            known = other in seconds
            row[f"speed_over_{other}"] = round(statistics.median(seconds[other]) / median, 3) if known else ""
        shape = replace(setting, arch=f"modern_{args.arch}") if "modern" in name else setting
        flops = shape.flops(args.vocabulary)
        row |= bench.utilisation(flops, median, statistics.median(bests), args.device, args.precision)
        row["peak_mib"] = round(peaks[name], 1) if name in peaks else ""
        rows.append({**row, "transformers": transformers_version(), **bench.environment(args.device)})
        print({key: row[key] for key in row if "quartiles" not in key}, flush=True)
    return rows, failed


def transformers_version() -> str:
    """Return the version of Hugging Face's package, empty where none is installed."""
    try:
        import transformers
    except ImportError:
        return ""
    return transformers.__version__


def _steps(loop: Loop, count: int) -> None:
    for _ in range(count):
        loop.step()


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    torch.set_num_threads(args.threads)
    setting = Setting("", args.arch, args.tokens, args.rows, args.precision, args.device)
    if args.memory_of:
        importlib.import_module("torch._dynamo")  # as an optimizer's first step does: no part of a step's memory
        loop = Loop(args.memory_of, setting, args.vocabulary)
        bench.report_memory(lambda: _steps(loop, 3))
        return
    rows, failed = measure(args, setting)
    if rows:
        bench.write_csv(args.out, [*(bench.read_csv(args.out) if args.append else []), *rows])
    if args.device == "cuda":
        best = max((row["tokens_per_s"] for row in rows if row["system"].startswith(OURS)), default=0)
        theirs = max((row["tokens_per_s"] for row in rows if row["system"] in SYSTEMS[4:]), default=0)
        if best and theirs:
            print(f"our best over their best compiled: {best / theirs:.2f}, target >= {SPEED_TARGET}")
    if failed:
        raise SystemExit(f"these did not run: {', '.join(failed)}")


if __name__ == "__main__":
    main()
