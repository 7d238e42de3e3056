"""Updates and seconds to fixed losses: BERT and a modern encoder, each with Adam and with Muon, at its best rate.

Every system trains through ``fairseq-train`` on the same masks, with every learning rate of a grid as large as
the others' at one seed, then at its best rate with the further seeds. Losses are validation's, bits a masked
token; seconds are the run's CPU time (one thread, validations and loading included), which other work on the
machine stretches less than the clock. A run that is finished stays; give the command again and it goes on:

    python scripts/bench/optimizers.py --data .quickstart/data --folder runs --arch tiny --updates 4000
    python scripts/bench/optimizers.py --data .quickstart/data --folder runs --table    (what there is by now)
"""

import argparse
import json
import resource
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common import environment, mean_and_spread, train_once, write_csv

from fairseq_masking.figures.tables import format_table
from fairseq_masking.figures.training_log import TrainingLog, read_training_log

ARCHS = {"bert": "mlm_{}", "modern": "mlm_modern_{}"}
# Muon's rate for the matrices of the layers; what it leaves to AdamW has 0.15 of it.
GRIDS = {"adam": (5e-4, 1e-3, 2e-3), "muon": (1e-2, 2e-2, 4e-2)}
SYSTEMS = [(encoder, optimizer) for encoder in ARCHS for optimizer in GRIDS]
LOSSES = (9.0, 8.0, 7.0, 6.5)
SHARED = """--cpu --task masked_pretraining --criterion mlm --tokens-per-sample 40 --batch-size 16 --mask-prob 0.2
    --batch-size-valid 256 --num-workers 1 --dropout 0 --attention-dropout 0 --clip-norm 1 --adam-betas (0.9,0.98)
    --adam-eps 1e-6 --weight-decay 0.01 --lr-scheduler polynomial_decay --warmup-updates 100 --no-save
    --log-format json --log-interval 100 --validate-interval-updates 100"""


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="prepared corpus")
    add("--folder", type=Path, required=True, help="where the runs are, a folder each")
    add("--arch", default="tiny", help="size of both encoders")
    add("--updates", type=int, default=4000, help="updates of a run, the decay's end")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3], help="the first tries the grid, the others its best")
    add("--table", action="store_true", help="start nothing: table and CSV of the runs that are finished")
    add("--out", default="scripts/bench/results/optimizers.csv")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    for grid in (True, False):  # the whole grid of all first, so that what is cut off is the spread
        for system in SYSTEMS:
            rates = GRIDS[system[1]] if grid else [best_rate(args, system)]
            for rate in rates if not args.table else ():
                for seed in args.seeds[:1] if grid else args.seeds[1:]:
                    train(args, system, rate, seed)
                    report(args)
    report(args)


def train(args: argparse.Namespace, system: tuple[str, str], rate: float, seed: int) -> None:
    """Train, unless that was done before, and note the CPU time."""
    folder = folder_of(args, system, rate, seed)
    if (folder / "finished").exists():
        return
    optimizer = ["--optimizer", "muon", "--adamw-lr", f"{0.15 * rate:g}"]
    if system[1] == "adam":
        optimizer = ["--optimizer", "fused_adamw"]
    length = ["--max-update", str(args.updates), "--total-num-update", str(args.updates)]
    arch = ["--arch", ARCHS[system[0]].format(args.arch), "--lr", f"{rate:g}", "--seed", str(seed)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    train_once(folder, [str(args.data), *SHARED.split(), *length, *arch, *optimizer])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    (folder / "seconds.json").write_text(json.dumps(seconds))


def report(args: argparse.Namespace) -> None:
    """Write the CSV of all finished runs; print means and spreads of each system at its best rate."""
    rows: list[dict[str, Any]] = []
    for system in SYSTEMS:
        best = best_rate(args, system)
        for rate in GRIDS[system[1]]:
            for seed in args.seeds:
                folder = folder_of(args, system, rate, seed)
                if not (folder / "seconds.json").exists():
                    continue
                log = read_training_log(folder / "train.log")
                seconds = json.loads((folder / "seconds.json").read_text())
                row = {"encoder": system[0], "optimizer": system[1], "size": args.arch, "updates": args.updates}
                row |= {"lr": rate, "best_of_grid": rate == best, "seed": seed, "final_ppl": log.final("ppl")}
                row["ms_per_update"] = round(1000 * seconds / args.updates, 2)
                for loss in LOSSES:
                    reached = updates_to(log, loss)
                    row[f"updates_to_{loss}"] = reached or ""
                    row[f"seconds_to_{loss}"] = round(seconds * reached / args.updates, 1) if reached else ""
                rows.append({**row, **environment("cpu")})
    if not rows:
        return
    write_csv(args.out, rows)
    table = []
    for encoder, optimizer in SYSTEMS:
        own = [
            row for row in rows if (row["encoder"], row["optimizer"]) == (encoder, optimizer) and row["best_of_grid"]
        ]
        if own:
            reached = [_spread([row[f"updates_to_{loss}"] for row in own]) for loss in LOSSES]
            took = [_spread([row[f"seconds_to_{loss}"] for row in own]) for loss in LOSSES]
            both = [
                f"{updates} ({seconds} s)" if updates else "" for updates, seconds in zip(reached, took, strict=True)
            ]
            ends = [_spread([row[key] for row in own]) for key in ("final_ppl", "ms_per_update")]
            table.append([f"{encoder} + {optimizer}", f"{own[0]['lr']:g}", str(len(own)), *both, *ends])
    titles = [f"updates to {loss} bits" for loss in LOSSES]
    print(format_table(["system", "lr", "seeds", *titles, "final perplexity", "ms/update"], table), flush=True)


def best_rate(args: argparse.Namespace, system: tuple[str, str]) -> float:
    """Return the rate of the lowest final loss at the first seed, among those that are finished."""
    finals = {}
    for rate in GRIDS[system[1]]:
        folder = folder_of(args, system, rate, args.seeds[0])
        if (folder / "finished").exists():
            finals[rate] = read_training_log(folder / "train.log").final("loss")
    return min(finals, key=finals.__getitem__, default=GRIDS[system[1]][0])


def folder_of(args: argparse.Namespace, system: tuple[str, str], rate: float, seed: int) -> Path:
    return args.folder / f"{args.arch}_{args.updates}" / f"{'_'.join(system)}_{rate:g}_{seed}"


def updates_to(log: TrainingLog, loss: float) -> int | None:
    """Return after how many updates validation is at ``loss`` or below for the first time."""
    return next((update for update, value in zip(*log.curve("loss"), strict=True) if value <= loss), None)


def _spread(values: list[Any]) -> str:
    """Mean and standard deviation; nothing where a run did not get there."""
    if not all(values):
        return ""
    return mean_and_spread(values, ".4g", ".3g")


if __name__ == "__main__":
    main()
