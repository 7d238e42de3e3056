"""A pre-training of a comparison, what an update of it costs, and what is measured of its last checkpoint."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairseq_masking.checkpoints.hub import HubInterface
from fairseq_masking.checkpoints.loading import read_checkpoint
from fairseq_masking.corpus.dictionary import masking_vocabulary
from fairseq_masking.corpus.manifest import MANIFEST_FILE
from fairseq_masking.figures.training_log import depths_of, read_training_log
from fairseq_masking.files import hash_file
from fairseq_masking.finetuning.runs import HydraRun
from fairseq_masking.finetuning.tasks import quoted
from fairseq_masking.measure.minimal_pairs import accuracy_rows, predictor_of, read_paradigms, score_pairs
from fairseq_masking.measure.sequences import count_tokens, masked_batches, unigram
from fairseq_masking.ops import corrupt_tokens, gather_positions

__all__ = ["Pretraining", "masked_loss", "unigram_losses"]

_PEAK = re.compile(rb"^peak memory: (\d+) KiB$", re.MULTILINE)


@dataclass(frozen=True)
class Pretraining(HydraRun):
    """A run: one objective with its options, a learning rate, a seed."""

    name: str
    recipe: Path
    options: tuple[str, ...]  # Hydra's overrides
    lr: float
    seed: int
    updates: int
    data: Path
    out: Path
    minimal_pairs: Path | None = None
    valid_tokens: int = 64  # of a row that the masked loss is measured on

    @property
    def folder(self) -> Path:
        return self.out / "runs" / self.name / f"lr_{self.lr:g}" / f"seed{self.seed}"

    @property
    def overrides(self) -> list[str]:
        return [
            f"common.log_interval={max(1, self.updates // 100)}",
            f"dataset.validate_interval_updates={max(1, self.updates // 20)}",
            f"checkpoint.save_interval_updates={max(1, self.updates // 10)}",
            *self.options,
            f"task.data={quoted(self.data.absolute())}",
            f"optimization.max_update={self.updates}",
            f"optimization.lr=[{self.lr:g}]",
            f"common.seed={self.seed}",
            f"checkpoint.save_dir={quoted(self.folder.absolute())}",
        ]

    @property
    def inputs(self) -> dict[str, str]:
        return {path.name: hash_file(path) for path in self.data.glob(MANIFEST_FILE)}

    @property
    def result(self) -> Path:
        return self.folder / "checkpoint_last.pt"

    def loss_curve(self) -> tuple[list[int], list[float]]:
        """Return updates and the validation loss of ``<mask>``s in bits; of several depths, of the deepest."""
        log = read_training_log(self.folder / "train.log")
        keys = next(iter(log.valid.values()))
        deepest = [f"mlm_loss_{depth}" for depth in depths_of(keys, "mlm_loss_")][-1:]
        return log.curve("loss_mask" if "loss_mask" in keys else deepest[0])

    def finish(self, device: str) -> str:
        """Measure the last checkpoint: losses are in bits a ``<mask>``."""
        hub = HubInterface.from_pretrained(self.result, data=self.data)
        found = masked_loss(hub, self.data, tokens_per_sample=self.valid_tokens)
        if self.minimal_pairs is not None:
            read, predictor = read_paradigms(self.minimal_pairs), predictor_of(hub, device)
            pairs = {one: score_pairs(predictor, one, pll="l2r", out=self.folder / "pairs") for one in read}
            found["blimp"] = accuracy_rows(pairs, by="sum")[-1]["accuracy"]
        found["hours"] = read_checkpoint(self.result).hours
        peaks = _PEAK.findall((self.folder / "output.txt").read_bytes())
        found["peak_mib"] = max(map(int, peaks)) / 1024 if peaks else math.nan
        self.record(scores=found)
        return f"{self.name} lr {self.lr:g} seed {self.seed}: {found['loss']:.3f} bits"


def masked_loss(hub: HubInterface, data: Path, *, tokens_per_sample: int) -> dict[str, float]:
    """Return loss (bits) and accuracy (percent) at 15% [MASK]s of the validation set: of all runs the same ones."""
    masks = {"mask_prob": 0.15, "batch_size": 32, "seed": 1, "corruption": "mask"}
    loss, right, total = 0.0, 0, 0
    with torch.inference_mode():
        for batch in masked_batches(hub, "valid", data=data, tokens_per_sample=tokens_per_sample, **masks):
            tokens, positions = batch["src_tokens"], batch["positions"]
            targets = gather_positions(tokens, positions)
            corrupted = corrupt_tokens(tokens, positions, batch["replacements"])
            logits = hub.model.token_logits(corrupted, positions).float()
            loss += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum").double()) / math.log(2)
            right, total = right + int((logits.argmax(1) == targets).sum()), total + len(targets)
    return {"loss": loss / total, "accuracy": 100 * right / total}


def unigram_losses(data: Path, dictionary: Any) -> dict[str, float]:
    """Return the loss in bits of the training text's token frequencies (add-one) on it and on the validation set."""
    special, splits = masking_vocabulary(dictionary, folder=data).special, ("train", "valid")
    counts = {split: np.where(special, 0, count_tokens(data, split, dictionary)) for split in splits}
    bits_V = -np.log2(np.where(special, 1, unigram(counts["train"], special)))
    return {split: float(own @ bits_V / max(own.sum(), 1)) for split, own in counts.items()}
