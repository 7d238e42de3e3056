"""Final validation figures of finished runs side by side, as a table and a CSV, grouped by name.

Validation masks are the same for every method, so the losses (bits a masked token) compare. Runs of one name
are seeds of one setting: their mean and standard deviation close the group.

    python scripts/bench/compare_runs.py --run MLM=mlm_1.log --run MLM=mlm_2.log --run MAP-Net=map_1.log
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from common import environment, mean_and_spread, write_csv

from fairseq_masking.figures.tables import format_table
from fairseq_masking.figures.training_log import named_log, read_training_log

COLUMNS = ("loss", "ppl", "accuracy", "ppl_mask", "ppl_random", "ppl_unchanged")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", metavar="NAME=LOG", action="append", required=True, help="log of a run")
    parser.add_argument("--out", type=Path, default=Path("scripts/bench/results/compare_runs.csv"))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    rows, losses = [], defaultdict(list)
    for run in args.run:
        name, path = named_log(run)
        log = read_training_log(path)
        final = {column: log.final(column) for column in COLUMNS}
        losses[name].append(final["loss"])
        rows.append({"name": name, "log": path.name, "updates": max(log.valid), **final})
        rows[-1] |= {"tokens_per_s": round(log.tokens_per_second), **environment("cpu")}
        write_csv(args.out, rows)
    print(format_table(list(rows[0])[:9], [[str(value) for value in list(row.values())[:9]] for row in rows]))
    for name, values in losses.items():
        print(f"{name}: {mean_and_spread(values)} bits over {len(values)} runs")


if __name__ == "__main__":
    main()
