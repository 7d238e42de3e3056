"""What trains side by side through fairseq's real Trainer: ours in its variants, and stock fairseq.

A system is named ``stock_fairseq`` or ``fairseq_masking``, with what differs from the defaults behind a plus:
``fairseq_masking+fused_adamw+compile_full``. ``VARIANTS`` lists what may stand there.
"""

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from common import synchronize
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer

import fairseq_masking
from fairseq_masking.compat.patching import replace_at_start
from fairseq_masking.masking.corruption import num_masked
from fairseq_masking.measure.flops import shape_of, step_flops
from fairseq_masking.methods.base.options import SIZES

__all__ = ["PARTS", "STOCK", "Run", "Setting", "check_systems", "training_options"]

assert fairseq_masking.__version__  # importing it registers our tasks, models and criterions
logging.getLogger().setLevel(logging.WARNING)  # after fairseq, which sets it
logging.getLogger("fairseq_masking.modules.compilation").setLevel(logging.INFO)

OURS, STOCK = "fairseq_masking", "stock_fairseq"
PARTS = ("forward", "backward", "optimizer")
VARIANTS = {
    "fused_adamw": ("--optimizer", "fused_adamw"),
    "muon": ("--optimizer", "muon", "--adamw-lr", "1e-5"),
    "rotary": ("--position-encoding", "rotary", "--normalize-before"),
    "eager": ("--compile", "none"),
    "compile": ("--compile", "encoder"),
    "compile_full": ("--compile", "full"),
    "cuda_graphs": ("--compile-mode", "reduce-overhead"),
    "torch": ("--ops-impl", "torch"),
    "triton": ("--ops-impl", "triton"),
    "checkpoint": ("--checkpoint-activations",),
}


@dataclass(frozen=True)
class Setting:
    """What all systems of a comparison have in common."""

    data: str
    arch: str
    tokens: int
    rows: int
    precision: str
    device: str

    @property
    def num_masked(self) -> int:
        """Masked tokens of a row."""
        return num_masked(self.tokens - 2, self.tokens - 2, 0.15)

    def flops(self, vocab_size: int) -> int:
        """FLOPs of a training step."""
        return step_flops(
            shape_of(SIZES[self.arch], vocab_size),
            num_rows=self.rows,
            num_tokens=self.tokens,
            num_masked=self.num_masked,
        )

    def columns(self) -> dict[str, Any]:
        """What a row of a CSV says of it."""
        return {"arch": self.arch, "tokens": self.tokens, "rows": self.rows, "precision": self.precision}

    def arguments(self) -> list[str]:
        """Return it as options of a benchmark, for a child process."""
        return [
            "--data", self.data, "--arch", self.arch, "--tokens", str(self.tokens), "--rows", str(self.rows),
            "--precision", self.precision, "--device", self.device,
        ]  # fmt: skip


def check_systems(names: list[str]) -> list[str]:
    """Return ``names``; exit with one line where one of them is unknown."""
    for name in names:
        base, *variants = name.split("+")
        unknown = [] if base == OURS else variants
        unknown = unknown or [variant for variant in variants if variant not in VARIANTS]
        if base not in (OURS, STOCK) or unknown:
            raise SystemExit(
                f"unknown system {name!r}: {STOCK}, or {OURS} with any of +{', +'.join(VARIANTS)} behind it"
            )
    return names


def training_options(setting: Setting, system: str, save_dir: str) -> list[str]:
    """Return fairseq-train's options for one system: same shape, precision, batch and optimizer."""
    base, *variants = system.split("+")
    shared = f"""{setting.data} --tokens-per-sample {setting.tokens} --batch-size {setting.rows}
        --max-positions {max(512, setting.tokens)} --clip-norm 1.0
        --optimizer adam --adam-betas (0.9,0.98) --adam-eps 1e-6 --weight-decay 0.01
        --lr-scheduler polynomial_decay --lr 1e-4 --warmup-updates 100 --total-num-update 100000
        --num-workers 0 --data-buffer-size 0 --dropout 0.1 --attention-dropout 0.1 --log-interval 1000000
        --distributed-world-size 1 --save-dir {save_dir}""".split()
    shared += ["--cpu"] if setting.device == "cpu" else []
    shared += [] if setting.precision == "fp32" else [f"--{setting.precision}"]
    if base == STOCK:
        if setting.arch.startswith("modern"):
            raise SystemExit(f"{STOCK} has no encoder of {setting.arch}'s kind: compare {OURS} alone")
        size = SIZES[setting.arch]
        return [
            *shared, "--task", "masked_lm", "--criterion", "masked_lm", "--arch", "roberta",
            "--encoder-layers", str(size.encoder_layers), "--encoder-embed-dim", str(size.encoder_embed_dim),
            "--encoder-ffn-embed-dim", str(size.encoder_ffn_embed_dim),
            "--encoder-attention-heads", str(size.encoder_attention_heads),
        ]  # fmt: skip
    ours = ["--task", "masked_pretraining", "--criterion", "mlm", "--arch", f"mlm_{setting.arch}"]
    return [*shared, *ours, *(text for variant in variants for text in VARIANTS[variant])]


class Run:
    """One system with its own trainer and a fixed handful of batches."""

    def __init__(
        self,
        setting: Setting,
        system: str,
        save_dir: str,
        num_batches: int = 8,
        num_workers: int = 0,
        more: Sequence[str] = (),
    ) -> None:
        argv = [*training_options(setting, system, save_dir), "--num-workers", str(num_workers), *more]
        parser = options.get_training_parser()
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, argv))
        cfg.common.tpu = False
        if cfg.optimizer._name == "muon":
            replace_at_start()  # as a command does: the trainer marks the matrices
        task = tasks.setup_task(cfg.task)
        torch.manual_seed(1)
        model = task.build_model(cfg.model)
        self.trainer = Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
        self.full_batch = setting.rows * setting.tokens
        self.trainer.begin_epoch(1)
        batches = [[batch] for batch in itertools.islice(self._epoch(1), num_batches)]
        assert batches, f"{setting.data} is too small for a batch of {setting.rows} rows"
        self.batches = itertools.cycle(batches)

    @property
    def vocab_size(self) -> int:
        """Symbols of the dictionary."""
        return len(self.trainer.task.source_dictionary)

    def endless_batches(self) -> Iterator[Any]:
        """Load batches as training does, epoch after epoch."""
        for epoch in itertools.count(1):
            yield from self._epoch(epoch)

    def _epoch(self, epoch: int) -> Iterator[Any]:
        """Load an epoch's full batches: its incomplete last one may stand anywhere."""
        batches = self.trainer.get_train_iterator(epoch=epoch, load_dataset=epoch == 1)
        for batch in batches.next_epoch_itr(shuffle=True):
            if int(batch["ntokens"]) == self.full_batch:
                yield batch

    def step(self) -> None:
        """Take one step of training."""
        self.trainer.train_step(next(self.batches))

    def parts(self, count: int) -> list[dict[str, float]]:
        """Take ``count`` steps; return the seconds of forward, backward, optimizer and the whole of each.

        The GPU is waited for around each part, so the whole is longer than a step left alone. ``optimizer``
        is scaling and clipping of gradients too; the rest is moving the batch, checks and logging.
        """
        measured = []
        with self._timed() as seconds:
            for _ in range(count):
                seconds.update(dict.fromkeys(PARTS, 0.0))
                synchronize()
                start = time.perf_counter()
                self.step()
                synchronize()
                measured.append({**seconds, "whole": time.perf_counter() - start})
        return measured

    @contextmanager
    def _timed(self) -> Iterator[dict[str, float]]:
        """Stop the time of what the Trainer calls."""
        trainer, seconds = self.trainer, dict.fromkeys(PARTS, 0.0)
        places: list[tuple[Any, str, str]] = [
            (trainer.criterion, "forward", "forward"),
            (trainer.optimizer, "backward", "backward"),
            (trainer.optimizer, "multiply_grads", "optimizer"),
            (trainer, "clip_grad_norm", "optimizer"),
            (trainer.task, "optimizer_step", "optimizer"),
        ]

        def timed(function: Callable[..., Any], part: str) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                synchronize()
                start = time.perf_counter()
                result = function(*args, **kwargs)
                synchronize()
                seconds[part] += time.perf_counter() - start
                return result

            return run

        try:
            for owner, name, part in places:
                setattr(owner, name, timed(getattr(owner, name), part))
            yield seconds
        finally:
            for owner, name, _ in places:
                vars(owner).pop(name, None)
