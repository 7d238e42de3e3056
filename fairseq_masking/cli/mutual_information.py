"""mutual_information: what a layer's states of [MASK]s say about the hidden tokens (2211.04898, Fig. 4)."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from fairseq_masking.cli.parsing import OneLineParser, at_least, run_reporting
from fairseq_masking.corpus.dictionary import masking_vocabulary
from fairseq_masking.figures.figure import new_figure, save_figure
from fairseq_masking.figures.provenance import provenance_of, write_csv
from fairseq_masking.figures.tables import format_table
from fairseq_masking.masking import Kind, MaskingConfig
from fairseq_masking.measure.measurements import sequence_length
from fairseq_masking.measure.mutual_information import entropy, layer_information, most_frequent
from fairseq_masking.measure.sequences import masked_batches
from fairseq_masking.methods.base.encoder_model import EncoderModel
from fairseq_masking.ops import gather_positions

__all__ = ["get_parser", "main"]

_EPILOG = """All models read the same masks of the same text. Layer 0 is where the [MASK]s enter: an encoder's
embedding, or what 3ML's decoder is given; of 3ML only the decoder has them. "chance" is what the estimate
gives for shuffled tokens: with few states a cluster it is far above 0, so compare equal settings only. The
paper's scale: 5,000,000 states a layer, 10,000 clusters, 1,000 tokens, masking rate 40%."""


def get_parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = OneLineParser(
        prog="mutual_information", description=__doc__, epilog=_EPILOG, allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--checkpoint", type=Path, nargs="+", required=True, metavar="FILE", help="one or several models")
    add("--name", nargs="+", metavar="NAME", help="of each, for table and figure (default: its folder's)")
    add("--data", type=Path, required=True, metavar="DIR", help="prepared corpus that they were trained on")
    add("--split", default="valid", help="of the corpus")
    add("--tokens-per-sample", type=int, metavar="T", help="tokens of a sequence (default: the training's)")
    add("--mask-prob", type=float, default=0.4, metavar="P", help="masking rate of the measurement")
    add("--states", type=int, default=50_000, metavar="N", help="states of [MASK]s a layer, at most")
    add("--frequent", type=int, default=1000, metavar="N", help="most frequent tokens that are looked at")
    add("--clusters", type=int, default=100, metavar="N", help="clusters of k-means")
    add("--batch-size", type=int, default=32, metavar="N", help="sequences at once")
    add("--seed", type=int, default=1, help="of masks and clusters")
    add("--out", type=Path, metavar="CSV", help="file for the numbers, with what reproduces them")
    add("--figure", type=Path, metavar="PNG", help="file for the figure")
    add("--note", default="", metavar="TEXT", help="kept in the file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 for bad input, 130 interrupted (2: wrong options)."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = get_parser()
    args = parser.parse_args(argv)
    at_least(parser, args, states=1, frequent=1, batch_size=1)
    args.name = args.name or [path.resolve().parent.name for path in args.checkpoint]
    if len(args.name) != len(args.checkpoint) or len(set(args.name)) != len(args.name):
        parser.error(f"--name: {len(args.checkpoint)} different names are needed, not {' '.join(args.name)}")
    return run_reporting(parser, lambda: _report(args, argv), args.out, args.data)


def _report(args: argparse.Namespace, argv: Sequence[str]) -> None:
    start = time.perf_counter()
    rows = _measure(args)
    print(_table(rows))
    if args.out is not None:
        command = ["mutual_information", *argv]
        write_csv(args.out, rows, provenance_of(command, args.checkpoint, since=start, note=args.note))
    if args.figure is not None:
        _draw(rows, args.figure, title=args.note)


def _measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for name, path in zip(args.name, args.checkpoint, strict=True):
        states, tokens_N = _collect(args, path)
        layers = tqdm(states, unit="layer", desc=name, disable=None)
        for number, states_ND in enumerate(layers):
            found = layer_information(states_ND, tokens_N, args.clusters, seed=args.seed)
            rows.append(
                {
                    "model": name,
                    "layer": number,
                    **found._asdict(),
                    "entropy": entropy(tokens_N),
                    "states": len(tokens_N),
                    "tokens": len(np.unique(tokens_N)),
                }
            )
    return rows


@torch.no_grad()
def _collect(
    args: argparse.Namespace, path: Path
) -> tuple[list[npt.NDArray[np.float32]], npt.NDArray[np.int64]]:
    """States ``[N, D]`` of [MASK]s, a layer each, and the tokens ``[N]`` that they hide."""
    hub = EncoderModel.from_pretrained(path, data=args.data)
    dictionary, model = hub.dictionary, hub.model
    batches = masked_batches(
        args.data,
        args.split,
        dictionary,
        masking=MaskingConfig(mask_prob=args.mask_prob, seed=args.seed),
        tokens_per_sample=sequence_length(hub, args.tokens_per_sample),
        batch_size=args.batch_size,
    )
    special_V = masking_vocabulary(dictionary, folder=args.data).special
    counts_V = np.array(dictionary.count[: len(dictionary)], dtype=np.int64)
    frequent = torch.from_numpy(most_frequent(counts_V, args.frequent, never=special_V))
    states, tokens, total = [], [], 0
    for net_input in tqdm(batches, unit="batch", desc=str(path), disable=None):
        masked = net_input["positions"][net_input["kinds"] == Kind.MASK]
        hidden = gather_positions(net_input["src_tokens"], masked)
        chosen = torch.isin(hidden, frequent).nonzero().flatten()[: args.states - total]
        states.append([state[chosen].float().numpy() for state in model.mask_states(**net_input)])
        tokens.append(hidden[chosen].numpy())
        total += len(chosen)
        if total == args.states:
            break
    return [np.concatenate(layer) for layer in zip(*states, strict=True)], np.concatenate(tokens)


def _table(rows: list[dict[str, Any]]) -> str:
    header = ["model", "layer", "information, nats", "chance", "entropy", "clusters", "states"]
    cells = [
        [
            row["model"],
            str(row["layer"]),
            f"{row['information']:.3f}",
            f"{row['chance']:.3f}",
            f"{row['entropy']:.3f}",
            str(row["num_clusters"]),
            f"{row['states']:,}",
        ]
        for row in rows
    ]
    return format_table(header, cells)


def _draw(rows: list[dict[str, Any]], path: Path, *, title: str) -> None:
    figure, ((axes,),) = new_figure(1, 1, (6.5, 4.2))
    for number, name in enumerate(dict.fromkeys(row["model"] for row in rows)):
        own = [row for row in rows if row["model"] == name]
        layers, colour = [row["layer"] for row in own], f"C{number}"
        axes.plot(layers, [row["information"] for row in own], "o-", color=colour, label=name)
        axes.plot(layers, [row["chance"] for row in own], ":", color=colour)
    axes.axhline(rows[0]["entropy"], color="0.5", linestyle="--", label="entropy of the tokens")
    axes.set_xlabel("layer (0: where the [MASK]s enter); dotted: chance")
    axes.set_ylabel("mutual information with the hidden token, nats")
    axes.set_ylim(bottom=0)
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)


if __name__ == "__main__":
    sys.exit(main())
