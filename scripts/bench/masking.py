"""Time of masking one 512-token item: ours and fairseq's MaskTokensDataset, side by side in one process.

    python scripts/bench/masking.py [--data DATA] [--items 300] [--repeats 7] [--output CSV]

fairseq masks an item twice, once for the source and once for the target; its caches are bypassed, since in
training each item is masked once per epoch. Reported are both together (what a training item costs) and the
source alone (what its corruption costs). Ours gives positions, kinds and replacements in one call; with
--mask-splits 4 it gives four rows. The repeats of all contenders are interleaved, so that a busy machine
slows all of them; the ratio is the median of the ratios within a repeat.

Also: items read, masked and collated per second, in sequences of 512, from a binarised corpus (an artificial
one of 25-token sentences unless --data names a prepared folder), beside fairseq's own chain of datasets.
"""

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from common import environment, write_corpus, write_csv
from fairseq.data import Dictionary, MaskTokensDataset, PrependTokenDataset, TokenBlockDataset, data_utils

from fairseq_masking.data import BlockDataset, MaskedDataset, load_dictionary, load_tokens
from fairseq_masking.masking import Masker, MaskingConfig, MaskingVocabulary
from fairseq_masking.tokenizers.symbols import MASK_SYMBOL

LENGTH = 512
BATCH = 32


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="prepared folder with dict.txt, train.bin and train.idx")
    parser.add_argument("--vocabulary", type=int, default=32_768, help="symbols of the artificial corpus")
    parser.add_argument("--items", type=int, default=300, help="items per repeat")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/masking.csv")
    options = parser.parse_args(argv)
    logging.disable(logging.INFO)
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as folder:
        data = options.data or write_corpus(Path(folder), options.vocabulary)
        rows = measure(data, options.items, options.repeats)
    note = {
        "corpus": "artificial" if options.data is None else str(options.data),
        "numpy": np.__version__,
        **environment("cpu"),
    }
    write_csv(options.output, [{**row, **note} for row in rows])
    print(f"{note['device']}, numpy {note['numpy']}, torch {note['torch']}, {note['corpus']} corpus")
    print(f"{'what':42} {'us/item':>9} {'min':>8} {'max':>8} {'rows/s':>9} {'fairseq/ours':>13}")
    for row in rows:
        ratio = f"{row['fairseq_over_ours']:13.2f}" if row["fairseq_over_ours"] != "" else ""
        print(
            f"{row['what']:42} {row['median_us']:9.1f} {row['min_us']:8.1f} {row['max_us']:8.1f}"
            f" {row['rows_per_second']:9.0f} {ratio}"
        )
    print(f"written to {options.output}")


def measure(data: Path, num_items: int, repeats: int) -> list[dict[str, object]]:
    """Times every contender in turn, ``repeats`` times; microseconds per item."""
    dictionary = load_dictionary(data / "dict.txt")
    tokens = load_tokens(str(data / "train"), dictionary)
    symbols = dictionary.symbols
    vocabulary = MaskingVocabulary.build(
        len(dictionary),
        range(dictionary.nspecial),
        dictionary.index(MASK_SYMBOL),
        # SentencePiece's mark; of the artificial corpus, about 70% of the symbols carry it.
        starts_word=np.array([symbol.startswith("\u2581") for symbol in symbols]),
    )
    blocks = BlockDataset(tokens, tokens_per_sample=LENGTH, bos=0, eos=2, pad=1, drop_last=True)
    num_items = min(num_items, len(blocks)) // BATCH * BATCH
    assert num_items > 0, "the corpus is too small: it must have at least 32 blocks of 512 tokens"
    items = [blocks[i] for i in range(num_items)]

    contenders: dict[str, Callable[[int], None]] = {}
    for target in (True, False):
        name = "fairseq source + target" if target else "fairseq source alone"
        contenders[name] = fairseq_masking_of(items, dictionary, with_target=target)
    for unit in ("subword", "whole_word", "span"):
        for num_splits in (1, 4):
            masker = Masker(MaskingConfig(unit=unit, num_splits=num_splits), vocabulary)  # type: ignore[arg-type]
            contenders[f"ours {unit} K={num_splits}"] = ours_of(items, masker)
    contenders["fairseq read + mask + pad"] = fairseq_chain(tokens, dictionary, num_items)
    for unit in ("subword", "whole_word", "span"):
        for num_splits in (1, 4):
            masker = Masker(MaskingConfig(unit=unit, num_splits=num_splits), vocabulary)  # type: ignore[arg-type]
            dataset = MaskedDataset(blocks, masker, pad_index=1, seed=1)
            contenders[f"ours read + mask + collate {unit} K={num_splits}"] = our_chain(dataset, num_items)

    times: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run(repeat + 1)
            elapsed = time.perf_counter() - start
            if repeat > 0:  # the first fills caches and allocators
                times[name].append(elapsed / num_items * 1e6)

    rows: list[dict[str, object]] = []
    for name, values in times.items():
        num_rows = int(name.rpartition("K=")[2]) if "K=" in name else 1
        against = "fairseq read + mask + pad" if "collate" in name else "fairseq source + target"
        ratios = [f * num_rows / o for f, o in zip(times[against], values, strict=True)]
        median = statistics.median(values)
        rows.append(
            {
                "what": name,
                "median_us": round(median, 2),
                "min_us": round(min(values), 2),
                "max_us": round(max(values), 2),
                "repeats": repeats,
                "items": num_items,
                "rows_per_item": num_rows,
                "rows_per_second": round(num_rows * 1e6 / median, 1),
                "fairseq_over_ours": round(statistics.median(ratios), 2) if name.startswith("ours") else "",
            }
        )
    return rows


def ours_of(items: list[np.ndarray], masker: Masker) -> Callable[[int], None]:
    def run(epoch: int) -> None:
        for index, item in enumerate(items):
            masker(item, epoch=epoch, index=index)

    return run


def fairseq_masking_of(items: list[np.ndarray], dictionary: Dictionary, *, with_target: bool) -> Callable[[int], None]:
    # fairseq takes tensors. A new epoch in each call keeps its lru_cache from answering.
    tensors = [torch.from_numpy(item) for item in items]
    parts = [fairseq_masked(tensors, dictionary, target) for target in ((False, True) if with_target else (False,))]

    def run(epoch: int) -> None:
        for part in parts:
            part.epoch = epoch
        for index in range(len(tensors)):
            for part in parts:
                part[index]

    return run


def fairseq_masked(dataset: object, dictionary: Dictionary, target: bool) -> MaskTokensDataset:
    return MaskTokensDataset(
        dataset,
        dictionary,
        pad_idx=1,
        mask_idx=dictionary.index(MASK_SYMBOL),
        return_masked_tokens=target,
        mask_prob=0.15,
    )


def fairseq_chain(tokens: object, dictionary: Dictionary, num_items: int) -> Callable[[int], None]:
    """Blocks, <s>, masks and padding as fairseq's masked_lm task stacks them, its sharing caches included."""
    blocks = TokenBlockDataset(tokens, tokens.sizes, LENGTH - 1, pad=1, eos=2, break_mode="none")  # type: ignore[attr-defined]
    source, target = MaskTokensDataset.apply_mask(
        PrependTokenDataset(blocks, 0), dictionary, pad_idx=1, mask_idx=dictionary.index(MASK_SYMBOL), mask_prob=0.15
    )

    def run(epoch: int) -> None:
        for dataset in (source, target):
            dataset.set_epoch(epoch)
            # LRUCacheDataset keeps items by index alone; in training no batch repeats one so soon.
            type(dataset).__getitem__.cache_clear()
        for start in range(0, num_items, BATCH):
            pairs = [(source[i], target[i]) for i in range(start, start + BATCH)]
            for column in range(2):
                data_utils.collate_tokens([pair[column] for pair in pairs], 1)

    return run


def our_chain(dataset: MaskedDataset, num_items: int) -> Callable[[int], None]:
    def run(epoch: int) -> None:
        dataset.set_epoch(epoch)
        for start in range(0, num_items, BATCH):
            dataset.collater([dataset[i] for i in range(start, start + BATCH)])

    return run


if __name__ == "__main__":
    main()
