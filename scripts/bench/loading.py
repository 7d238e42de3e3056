"""Rows a second that reach the trainer: masking and loading through the real batch iterators, with workers.

Ours and fairseq's ``masked_lm``, over the same corpus, in batches of --rows rows of --tokens tokens, with
0, 1, 2, ... worker processes. The first batches, which workers have ready when they have started, are not
counted, nor is fairseq's buffer of batches: both hide how fast rows are made. The target is 1,000 rows of 512
tokens a second; the last column says how many workers that needs at the pace of one.

    python scripts/bench/loading.py --data DATA --workers 0 1 2
"""

import argparse
import gc
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from common import environment, milliseconds, write_corpus, write_csv
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from systems import Setting, training_options

TARGET_ROWS = 1_000
PREFETCHED = 2  # batches a worker has ready: PyTorch's default
# name: (system, options)
LOADERS = {
    "fairseq_masking": ("fairseq_masking", ()),
    "fairseq_masking K=4": ("fairseq_masking", ("--mask-splits", "4")),
    "stock_fairseq": ("stock_fairseq", ()),
    # needs a corpus whose manifest names its tokeniser, which the artificial one's does not
    "fairseq_masking whole_word": ("fairseq_masking", ("--mask-unit", "whole_word")),
}


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="prepared corpus (default: an artificial one of 25-token sentences)")
    parser.add_argument("--tokens", type=int, default=512, help="tokens a row")
    parser.add_argument("--rows", type=int, default=32, help="rows a batch")
    parser.add_argument("--batches", type=int, default=40, help="batches a turn")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="worker processes")
    parser.add_argument("--loaders", nargs="+", default=list(LOADERS)[:3], choices=LOADERS)
    parser.add_argument("--turns", type=int, default=3, help="turns of each")
    parser.add_argument("--out", default="scripts/bench/results/loading.csv")
    return parser.parse_args(argv)


class Loader:
    """One task with its training set."""

    def __init__(self, setting: Setting, name: str) -> None:
        system, extra = LOADERS[name]
        argv = [*training_options(setting, system, "/nonexistent"), *extra]
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), argv))
        self.task = tasks.setup_task(cfg.task)
        self.task.load_dataset("train", combine=True, epoch=1)
        self.max_rows = setting.rows
        self.epoch = 0

    def seconds_a_row(self, num_workers: int, num_batches: int) -> float:
        """Return the seconds a row takes to arrive, in another epoch than the call before."""
        self.epoch += 1  # fairseq keeps what it masked in an epoch
        batches = self.task.get_batch_iterator(
            self.task.dataset("train"), max_sentences=self.max_rows, seed=1, epoch=self.epoch,
            num_workers=num_workers, data_buffer_size=0, disable_iterator_cache=True,
        ).next_epoch_itr(shuffle=True)  # fmt: skip
        iterator = iter(batches)
        for _ in range(1 + PREFETCHED * num_workers):
            next(iterator)
        start, rows = time.perf_counter(), 0
        for _, batch in zip(range(num_batches), iterator, strict=False):
            rows += batch["nsentences"]
        seconds = time.perf_counter() - start
        del batches, iterator
        gc.collect()  # stops the workers, before others are measured
        return seconds / rows


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sentences = 2 * args.batches * args.rows * args.tokens // 25
        data = args.data or str(write_corpus(Path(folder), 32_768, sentences))
        setting = Setting(data, "tiny", args.tokens, args.rows, "fp32", "cpu")
        loaders = {name: Loader(setting, name) for name in args.loaders}
        seconds: dict[tuple[str, int], list[float]] = {}
        for _ in range(args.turns):
            for workers in args.workers:
                for name, loader in loaders.items():
                    times = seconds.setdefault((name, workers), [])
                    times.append(loader.seconds_a_row(workers, args.batches))
    rows: list[dict[str, Any]] = []
    for (name, workers), times in seconds.items():
        rate = 1 / statistics.median(times)
        stock = seconds.get(("stock_fairseq", workers))
        one = statistics.median(seconds[name, 1]) if 1 in args.workers else math.nan
        row = {"loader": name, "workers": workers, "tokens": args.tokens, "rows": args.rows}
        row |= milliseconds(times, "row_")
        row["rows_per_s"] = round(rate, 1)
        row["speed_over_stock"] = round(rate * statistics.median(stock), 2) if stock else ""
        row["workers_for_target"] = "" if math.isnan(one) else math.ceil(TARGET_ROWS * one)
        row["corpus"] = args.data or "artificial"
        rows.append({**row, **environment("cpu")})
        print({key: row[key] for key in row if "quartiles" not in key}, flush=True)
    write_csv(args.out, rows)


if __name__ == "__main__":
    main()
