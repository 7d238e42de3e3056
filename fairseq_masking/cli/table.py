"""One table of all runs under folders: what differs in their options, and their validation by corruption.

Each folder below with a checkpoint is a run. The file has every column, the table those that vary.

Example:
  fairseq-masking table runs --out table.csv
"""

import argparse
from pathlib import Path
from typing import Any

from fairseq_masking.cli.options import add_shared, write_numbers
from fairseq_masking.errors import UserError
from fairseq_masking.figures.tables import format_table
from fairseq_masking.figures.training_log import depths_of, read_training_log

# Column and where its value stands in a checkpoint's configuration.
_OPTIONS = {
    "arch": "model._name",
    "decoder": "model.decoder_attention",
    "masked": "task.mask_prob",
    "left": "task.leave_unmasked_prob",
    "random": "task.random_token_prob",
    "layers": "model.decoder_layers",
    "width": "model.decoder_embed_dim",
    "valid masked": "task.valid_mask_prob",
    "mixture": "model.mixture",
    "weights": "model.mixture_weights",
    "generator": "model.generator_layers",
    "separate": "model.separate_generators",
    "no stop-grad": "model.no_generator_stop_grad",
    "scale": "model.adversarial_scale",
    "MLM scale": "model.adversarial_mlm_scale",
    "tokens": "task.tokens_per_sample",
    "seed": "common.seed",
}
# Validation's. It may mask less than training does: what training saves stands in its own log.
_METRICS = (
    "ppl", "ppl_mask", "ppl_random", "ppl_unchanged", "accuracy", "encoder_length", "flops_saved", "disc_loss",
    "disc_accuracy", "disc_accuracy_replaced", "disc_accuracy_original", "disc_auc", "replace_rate",
)  # fmt: skip
_OF_TRAINING = ("encoder_length", "flops_saved")
_BY_DEPTH = ("mlm_loss", "mixture")  # AMOS's: in a log the depth's name stands behind


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, nargs="+", metavar="FOLDER", help="each folder below with a checkpoint is a run")
    add("--log", default="train.log", metavar="NAME", help="of each run, in its folder (default: train.log)")
    add_shared(parser, "out", "also write the table, every column of it", metavar="CSV")
    add_shared(parser, "note", "kept in the file")


def run(args: argparse.Namespace) -> None:
    checkpoints = sorted(path for folder in args.folder for path in folder.rglob("checkpoint_last.pt"))
    if not checkpoints:
        raise UserError(f"no checkpoint_last.pt under {' '.join(map(str, args.folder))}: train first")
    rows = [_row(path, args.log) for path in checkpoints]
    rows.sort(key=lambda row: [(isinstance(row[column], str), row[column]) for column in _OPTIONS])
    write_numbers(args, rows, timed=False)
    print(_table(rows))


def _row(checkpoint: Path, log_name: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    from fairseq_masking.checkpoints.loading import read_checkpoint

    cfg = read_checkpoint(checkpoint).cfg
    log = read_training_log(checkpoint.parent / log_name)
    last = max(log.valid)
    values = {column: OmegaConf.select(cfg, key) for column, key in _OPTIONS.items()}
    row = {column: "" if value is None else value for column, value in values.items()}
    row |= {column: ",".join(map(str, value)) for column, value in row.items() if OmegaConf.is_list(value)}
    row |= {"updates": last, **{name: log.valid[last].get(name, "") for name in _METRICS}}
    for name in _BY_DEPTH:  # depths differ little: three decimals, whatever stands before the point
        depths = depths_of(log.valid[last], f"{name}_")
        row[f"{name} by depth"] = " / ".join(f"{log.valid[last][f'{name}_{depth}']:.3f}" for depth in depths)
    row |= {name: log.train[max(log.train)].get(name, "") for name in _OF_TRAINING}
    return {**row, "tokens_per_s": round(log.tokens_per_second), "run": checkpoint.parent.name}


def _table(rows: list[dict[str, Any]]) -> str:
    """What is the same in all runs is left out."""
    varying = [column for column in (*_OPTIONS, "updates") if len({str(row[column]) for row in rows}) > 1]
    measured = (*_METRICS, *(f"{name} by depth" for name in _BY_DEPTH), "tokens_per_s")
    known = [name for name in measured if any(row[name] != "" for row in rows)]
    columns = [*(varying or ["arch"]), *known]
    return format_table(columns, [[_cell(row[column]) for column in columns] for row in rows])


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
