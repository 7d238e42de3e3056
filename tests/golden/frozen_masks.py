"""Masks of whole epochs, as the task batches them for training."""

import itertools
import json
from pathlib import Path
from typing import Any

from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from frozen_corpus import CORPUS
from frozen_files import digest, tensor_digest

import fairseq_masking  # noqa: F401 - registers the task

__all__ = ["epoch", "masks", "masks_of_words"]

UNITS, SPLITS, SEEDS, EPOCHS = ("subword", "whole_word", "span"), (1, 3), (1, 7), (1, 2)
_NAME = "masked_pretraining"


def masks() -> dict[str, dict[str, str]]:
    """Digests for units, K, seeds and epochs; ragged lines with one seed, whole blocks with the other."""
    frozen = {}
    for unit, splits, seed, number in itertools.product(UNITS, SPLITS, SEEDS, EPOCHS):
        options = {"mask_unit": unit, "mask_splits": splits, "seed": seed}
        mode = "eos" if seed == 1 else "none"
        frozen[f"{unit} K={splits} seed={seed} epoch={number} {mode}"] = epoch(
            CORPUS, number, sample_break_mode=mode, **options
        )
    other = {"mask_prob": 0.3, "leave_unmasked_prob": 0.2, "random_token_prob": 0.0}
    spans = {"mask_unit": "span", "span_geometric_p": 0.5, "span_max_length": 3}
    frozen["other shares, complete"] = epoch(CORPUS, 1, sample_break_mode="complete", **other)
    frozen["other spans, complete_doc"] = epoch(CORPUS, 1, sample_break_mode="complete_doc", **spans)
    frozen["validation"] = epoch(CORPUS, 3, split="valid", seed=7, mask_unit="span", mask_splits=3)
    return frozen


def masks_of_words(corpus: Path) -> dict[str, str]:
    """Digests of whole words, whose beginnings the tokeniser knows."""
    return epoch(corpus, 1, mask_unit="whole_word", sample_break_mode="eos")


def epoch(corpus: Path, number: int, *, split: str = "train", seed: int = 1, **options: Any) -> dict[str, str]:
    """Digests of what the batches of an epoch hold, in their order."""
    config = TASK_DATACLASS_REGISTRY[_NAME](
        data=str(corpus), tokens_per_sample=32, seed=seed, train_subset="train", update_freq=[1], bpe=None,
        **options,
    )  # fmt: skip
    task = TASK_REGISTRY[_NAME].setup_task(config)
    task.load_dataset(split, epoch=number, combine=split == "train")
    batches = task.get_batch_iterator(task.dataset(split), max_sentences=6, max_positions=32, seed=seed, epoch=number)
    found: dict[str, list[str]] = {}
    for sample in batches.next_epoch_itr(shuffle=split == "train"):
        net_input = sample.pop("net_input")
        shape = net_input.pop("shape")
        assert shape.pop("num_splits") == (config.mask_splits if split == "train" else 1)  # not frozen
        rest = {name: sample.pop(name) for name in ("nsentences", "ntokens", "num_skipped")}
        for name, tensor in {**sample, **net_input}.items():
            found.setdefault(name, []).append(tensor_digest({name: tensor}))
        found.setdefault("numbers", []).append(json.dumps([shape, rest], sort_keys=True))
    return {name: digest("".join(parts).encode())[:16] for name, parts in found.items()}
