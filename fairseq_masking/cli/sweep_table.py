"""sweep_table: one table of all runs under a folder: what differs, and their validation by corruption."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairseq import checkpoint_utils
from omegaconf import OmegaConf

import fairseq_masking  # checkpoints name its tasks and models
from fairseq_masking.cli.parsing import OneLineParser, run_reporting
from fairseq_masking.errors import UserError
from fairseq_masking.figures.amos_curves import depths_of
from fairseq_masking.figures.provenance import provenance_of, write_csv
from fairseq_masking.figures.tables import format_table
from fairseq_masking.figures.training_log import read_training_log

__all__ = ["get_parser", "main"]

assert fairseq_masking.__version__

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
_METRICS = (
    "ppl",
    "ppl_mask",
    "ppl_random",
    "ppl_unchanged",
    "accuracy",
    "encoder_length",
    "flops_saved",
    "disc_loss",
    "disc_accuracy",
    "disc_accuracy_replaced",
    "disc_accuracy_original",
    "disc_auc",
    "replace_rate",
)
_BY_DEPTH = ("mlm_loss", "mixture")  # AMOS's: in a log the depth's name stands behind


def get_parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = OneLineParser(prog="sweep_table", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, nargs="+", help="each folder below with a checkpoint is a run")
    parser.add_argument(
        "--log", default="train.log", metavar="NAME", help="of each run, in its folder (default: train.log)"
    )
    parser.add_argument("--out", type=Path, metavar="CSV", help="also write the table, every column of it")
    parser.add_argument("--note", default="", metavar="TEXT", help="kept in the file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit status: 0, 1 for bad input (2: wrong options)."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = get_parser()
    args = parser.parse_args(argv)
    return run_reporting(parser, lambda: _report(args, argv), args.out)


def _report(args: argparse.Namespace, argv: Sequence[str]) -> None:
    rows = _rows(args)
    if args.out is not None:
        write_csv(args.out, rows, provenance_of(["sweep_table", *argv], note=args.note))
    print(_table(rows))


def _rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    checkpoints = sorted(path for folder in args.folder for path in folder.rglob("checkpoint_last.pt"))
    if not checkpoints:
        raise UserError(f"no checkpoint_last.pt under {' '.join(map(str, args.folder))}: train first")
    return sorted((_row(path, args.log) for path in checkpoints), key=_order)


def _row(checkpoint: Path, log_name: str) -> dict[str, Any]:
    cfg = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))["cfg"]
    log = read_training_log(checkpoint.parent / log_name)
    last = max(log.valid)
    row = {column: _plain(OmegaConf.select(cfg, key)) for column, key in _OPTIONS.items()}
    row |= {"updates": last, **{name: log.valid[last].get(name, "") for name in _METRICS}}
    row |= {f"{name} by depth": _by_depth(log.valid[last], f"{name}_") for name in _BY_DEPTH}
    # Validation may mask less than training does: what training saves stands in its own log.
    training = log.train[max(log.train)]
    row |= {name: training.get(name, "") for name in ("encoder_length", "flops_saved")}
    return {**row, "tokens_per_s": round(log.tokens_per_second), "run": checkpoint.parent.name}


def _plain(value: Any) -> Any:
    if value is None:
        return ""
    return ",".join(map(str, value)) if OmegaConf.is_list(value) else value


def _by_depth(values: Mapping[str, float], prefix: str) -> str:
    # Depths differ little: three decimals, whatever stands before the point.
    return " / ".join(f"{values[prefix + depth]:.3f}" for depth in depths_of(values, prefix))


def _order(row: dict[str, Any]) -> list[Any]:
    return [(str(type(row[column]) is str), row[column]) for column in _OPTIONS]


def _table(rows: list[dict[str, Any]]) -> str:
    """What is the same in all runs is left out."""
    varying = [column for column in (*_OPTIONS, "updates") if len({str(row[column]) for row in rows}) > 1]
    columns = [
        *(varying or ["arch"]),
        *(
            name
            for name in (*_METRICS, *(f"{name} by depth" for name in _BY_DEPTH), "tokens_per_s")
            if any(row[name] != "" for row in rows)
        ),
    ]
    return format_table(columns, [[_cell(row[column]) for column in columns] for row in rows])


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


if __name__ == "__main__":
    sys.exit(main())
