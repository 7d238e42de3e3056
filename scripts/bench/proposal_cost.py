"""What MAP-Net costs an update: measured beside plain masked language modelling, and computed in FLOPs.

Through the real Trainer, all in turns: ``mlm``; ``map_net`` as by default, whose proposal network always
runs; and ``map_net`` with ``--explore-unit batch --proposal-learn-from proposed``, where it runs in the
updates that propose and is left out of those that explore, timed each by itself. Their mean by the schedule's
shares (q from --explore-start 1 to --explore-end 0.33) is the last row.

    python scripts/bench/proposal_cost.py --data DATA --arch tiny base --tokens 128 512 --rows 32 2
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from common import bench_parser, environment, milliseconds, read_csv, take_turns, write_csv
from systems import VARIANTS, Run, Setting

from fairseq_masking.measure.flops import mean_share_proposed, proposal_share, shape_of
from fairseq_masking.methods.base.options import SIZES
from fairseq_masking.methods.map_net.model import PROPOSAL_SIZES, MapNetConfig

_SKIPPING = ("--explore-unit", "batch", "--proposal-learn-from", "proposed")
_EXPLORING = ("--explore-start", "1", "--explore-end", "1")
_PROPOSING = ("--explore-start", "0", "--explore-end", "0")
# Name of a row -> options behind --arch and --criterion map_net.
MAP_NETS: dict[str, tuple[str, ...]] = {
    "map_net, always run": ("--explore-start", "0.665", "--explore-end", "0.665"),
    "map_net, exploring update": (*_SKIPPING, *_EXPLORING),
    "map_net, proposing update": (*_SKIPPING, *_PROPOSING),
}
SCHEDULE = "map_net, skipped where it explores: the schedule's mean"


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = bench_parser(__doc__, steps=5, turns=6, out="scripts/bench/results/proposal_cost.csv")
    parser.add_argument("--arch", nargs="+", default=["tiny"], choices=SIZES)
    parser.add_argument("--tokens", type=int, nargs="+", default=[128], help="tokens a row, for each --arch")
    parser.add_argument("--rows", type=int, nargs="+", default=[32], help="rows a batch, for each --arch")
    parser.add_argument("--append", action="store_true", help="keep the rows that --out has")
    return parser.parse_args(argv)


def measure(setting: Setting, *, steps: int, turns: int) -> list[dict[str, Any]]:
    """Return a row for plain masked language modelling and for each way to run the proposal network."""
    systems = {"mlm": "fairseq_masking"}
    for number, (name, options) in enumerate(MAP_NETS.items()):
        variant = f"map_net_{number}"
        VARIANTS[variant] = ("--arch", f"map_net_{setting.arch}", "--criterion", "map_net", *options)
        systems[name] = f"fairseq_masking+{variant}"
    with tempfile.TemporaryDirectory() as save_dir:
        runs = {name: Run(setting, system, save_dir, num_batches=4) for name, system in systems.items()}
        seconds = take_turns({name: run.step for name, run in runs.items()}, steps=steps, turns=turns)
        vocabulary = next(iter(runs.values())).vocab_size
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    share = share_of(setting, vocabulary)
    proposed = mean_share_proposed(MapNetConfig.explore_start, MapNetConfig.explore_end)
    exploring, proposing = list(MAP_NETS)[1:]
    mean = (1 - proposed) * medians[exploring] + proposed * medians[proposing]
    computed = dict(zip(("mlm", *MAP_NETS), (0.0, share, 0.0, share), strict=True))
    rows = [
        _row(setting, name, medians, computed[name], milliseconds(times, "step_")) for name, times in seconds.items()
    ]
    last = {"step_ms": round(1000 * mean, 3), "step_quartiles_ms": ""}
    return [*rows, _row(setting, SCHEDULE, {**medians, SCHEDULE: mean}, proposed * share, last)]


def share_of(setting: Setting, vocab_size: int) -> float:
    """Return the FLOPs that the proposal network adds, over those of the encoder with its head."""
    proposal = PROPOSAL_SIZES[setting.arch]
    return proposal_share(
        shape_of(SIZES[setting.arch], vocab_size),
        num_layers=proposal["proposal_layers"],
        embed_dim=proposal["proposal_embed_dim"],
        ffn_dim=proposal["proposal_ffn_embed_dim"],
        num_tokens=setting.tokens,
        num_masked=setting.num_masked,
    )


def _row(
    setting: Setting, name: str, medians: dict[str, float], computed: float, times: dict[str, Any]
) -> dict[str, Any]:
    median = medians[name]
    row = {
        "system": name, **setting.columns(), **times,
        "tokens_per_s": round(setting.tokens * setting.rows / median),
        "time_over_mlm": f"{median / medians['mlm'] - 1:+.1%}", "flops_over_mlm": f"{computed:+.1%}",
    }  # fmt: skip
    print(row, flush=True)
    return {**row, **environment(setting.device)}


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    torch.set_num_threads(args.threads)
    sys.argv = sys.argv[:1]  # fairseq's parsers look at it
    rows = read_csv(args.out) if args.append else []
    for arch, tokens, num_rows in zip(args.arch, args.tokens, args.rows, strict=True):
        setting = Setting(args.data, arch, tokens, num_rows, args.precision, args.device)
        rows += measure(setting, steps=args.steps, turns=args.turns)
        write_csv(args.out, rows)


if __name__ == "__main__":
    main()
