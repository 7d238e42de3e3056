"""Fine-tuning with batches of similar length (finetuning/pools.py) against fairseq's random ones: scores and padding.

mlm_tiny is pre-trained once on --corpus, as the quickstart does it, then fine-tuned on some rows of CoLA and SST-2
with either order and several seeds; a seed's score is that of its best epoch, as ``fairseq-masking finetune`` has it.
``tokens_ratio`` is an epoch's tokens, padding included, over those of its rows. Runs that are finished stay; give the
command again and it goes on:

    python scripts/bench/pools.py --corpus general.txt --glue ../shared/data/glue --folder runs
"""

import argparse
import logging
import multiprocessing
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from common import environment, mean_and_spread, train_once, write_csv
from fairseq import options, tasks
from fairseq.tasks.sentence_prediction import SentencePredictionTask

import fairseq_masking
from fairseq_masking.figures.tables import format_table
from fairseq_masking.figures.training_log import read_training_log

assert fairseq_masking.__version__  # importing it makes the pools
ROWS, EPOCHS = 32, 3
METRICS = {"CoLA": "mcc", "SST-2": "accuracy"}
ORDERS = ("random", "pools")
PRETRAINING = """--cpu --task masked_pretraining --arch mlm_tiny --position-encoding rotary --normalize-before
    --dropout 0 --attention-dropout 0 --criterion mlm --mask-prob 0.4 --tokens-per-sample 64 --batch-size 16
    --batch-size-valid 256 --num-workers 0 --optimizer muon --lr 0.02 --adamw-lr 3e-3 --adam-eps 1e-6
    --weight-decay 0.01 --clip-norm 1 --lr-scheduler polynomial_decay --warmup-updates 100 --log-format json
    --log-interval 100 --no-epoch-checkpoints"""
FINETUNING = f"""--cpu --task sentence_prediction --criterion scored_sentence_prediction --arch mlm_tiny
    --num-classes 2 --init-token 0 --separator-token 2 --required-batch-size-multiple 1 --batch-size {ROWS}
    --batch-size-valid 128 --num-workers 0 --optimizer fused_adamw --lr 1e-3 --lr-scheduler linear --warmup-ratio 0.06
    --adam-eps 1e-6 --weight-decay 0.01 --clip-norm 1 --max-epoch {EPOCHS} --no-save --log-format json"""


def prepare_tasks(corpus: Path, glue: Path, folder: Path, rows: int) -> dict[str, Path]:
    """Prepare so many rows of each task, at most, with the tokeniser of a prepared corpus."""
    for task in METRICS:
        verb("prepare", "task", "--task", task, "--data", glue / task, "--corpus", corpus, "--out", folder / task,
             "--max-length", 128, "--max-train-rows", rows)  # fmt: skip
    return {task: folder / task for task in METRICS}


def verb(*arguments: Any) -> None:
    """Run ``fairseq-masking``."""
    subprocess.run([sys.executable, "-m", "fairseq_masking", *map(str, arguments)], check=True, capture_output=True)


def tokens_ratio(data: Path, iterator: Callable[..., Any], epochs: Sequence[int] = (1, 2, 3)) -> float:
    """Return the tokens of batches over those of their rows; ``iterator``: what a task makes batches with."""
    parser = options.get_training_parser(default_task="sentence_prediction")
    given = [str(data), "--num-classes", "2", "--init-token", "0", "--separator-token", "2"]
    args = options.parse_args_and_arch(parser, [*given, "--arch", "mlm_tiny"])
    args.regression_target = False  # as fairseq's own commands take it from the criterion
    task = tasks.setup_task(args)
    task.load_dataset("train")
    dataset = task.dataset("train")
    lengths = np.max(np.atleast_2d(dataset.sizes), axis=0)
    ratios = []
    for epoch in epochs:
        made = iterator(task, dataset, max_sentences=ROWS, seed=1, epoch=epoch, required_batch_size_multiple=1)
        batches = [lengths[batch] for batch in made.frozen_batches]
        ratios.append(sum(len(batch) * batch.max() for batch in batches) / lengths.sum())
    return round(statistics.mean(ratios), 3)


def padding(data: Path) -> dict[str, float]:
    """Return ``tokens_ratio`` of each order."""
    pooled = SentencePredictionTask.get_batch_iterator
    return {"random": tokens_ratio(data, pooled.__wrapped__), "pools": tokens_ratio(data, pooled)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="text to pre-train on")
    parser.add_argument("--glue", type=Path, required=True, help="folder of CoLA and SST-2")
    parser.add_argument("--folder", type=Path, required=True, help="where data and runs are")
    parser.add_argument("--updates", type=int, default=2000, help="of pre-training")
    parser.add_argument("--rows", type=int, default=5000, help="of each task, to train on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--tasks", nargs="+", choices=METRICS, default=list(METRICS), help="those to train on now")
    parser.add_argument("--out", default="scripts/bench/results/pools.csv")
    args = parser.parse_args(argv)
    corpus, start = args.folder / "corpus", args.folder / "mlm"
    verb("prepare", "corpus", "--train", args.corpus, "--out", corpus, "--vocab-size", 8000)
    length = ["--max-update", str(args.updates), "--total-num-update", str(args.updates)]
    train_once(start, [str(corpus), *PRETRAINING.split(), *length])
    data = prepare_tasks(corpus, args.glue, args.folder, args.rows)
    ratios = {task: padding(folder) for task, folder in data.items()}
    for seed in args.seeds:
        for task in args.tasks:
            for order in ORDERS:
                given = ["--init-from", str(start / "checkpoint_best.pt"), "--seed", str(seed)]
                finetune_once(
                    args.folder / f"{task}_{order}_{seed}", order, [str(data[task]), *FINETUNING.split(), *given]
                )
                report(args, ratios)


def finetune_once(folder: Path, order: str, given: list[str]) -> None:
    """Run fairseq-train unless this was done before."""
    if not (folder / "finished").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _forked(folder, order, given)
        (folder / "finished").touch()


def _forked(folder: Path, order: str, given: list[str]) -> None:
    """Run it in a fork of this process, which imports nothing again."""
    process = multiprocessing.get_context("fork").Process(target=_train, args=(folder, order, given))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{folder} failed: see its train.log")


def _train(folder: Path, order: str, given: list[str]) -> None:
    with (folder / "train.log").open("w") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    logging.getLogger().handlers.clear()
    from fairseq_cli.train import cli_main  # it sets its own logging up

    if order == "random":
        SentencePredictionTask.get_batch_iterator = SentencePredictionTask.get_batch_iterator.__wrapped__
    package = str(Path(fairseq_masking.__file__).parent)
    sys.argv = ["fairseq-train", *given, "--user-dir", package, "--save-dir", str(folder)]
    cli_main()


def report(args: argparse.Namespace, ratios: dict[str, dict[str, float]]) -> None:
    """Write the CSV of all finished runs and print means and spreads."""
    rows, table = [], []
    for task, metric in METRICS.items():
        for order in ORDERS:
            folders = {seed: args.folder / f"{task}_{order}_{seed}" for seed in args.seeds}
            scores = {
                seed: max(read_training_log(folder / "train.log").curve(metric)[1])
                for seed, folder in folders.items()
                if (folder / "finished").exists()
            }
            shared = {"tokens_ratio": ratios[task][order], **environment("cpu")}
            for seed, score in scores.items():
                rows.append({"task": task, "order": order, "seed": seed, "metric": metric, "score": score, **shared})
            if scores:
                mean = mean_and_spread(list(scores.values()), ".2f", ".2f")
                table.append([f"{task} {metric}", order, str(len(scores)), mean, str(ratios[task][order])])
    write_csv(args.out, rows)
    print(format_table(["task", "order", "seeds", "score", "tokens over the rows'"], table), flush=True)


if __name__ == "__main__":
    main()
