"""What a layer's states of [MASK]s say about the hidden tokens (2211.04898, Fig. 4): mutual information.

All models read the same masks of the same text. Layer 0 is where the [MASK]s enter: an encoder's embedding,
or what 3ML's decoder is given; of 3ML only the decoder has them. "chance" is what the estimate gives for
shuffled tokens: with few states a cluster it is far above 0, so compare equal settings only. The paper's
scale: 5,000,000 states a layer, 10,000 clusters, 1,000 tokens, masking rate 40%.

Example:
  fairseq-masking measure information --checkpoint mlm.pt three_ml.pt --names MLM 3ML --data data/wiki
"""

import argparse

from fairseq_masking.cli.options import add_measured, add_shared, at_least, check_names, measured_by, write_numbers

_COLUMNS = {"model": "{model}", "layer": "{layer}", "information, nats": "{information:.3f}",
            "chance": "{chance:.3f}", "entropy": "{entropy:.3f}", "clusters": "{num_clusters}",
            "states": "{states:,}"}  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    add_measured(parser, of="one or several models", several=True, split="valid", mask_prob=0.4,
                 batch_size=32, seed="of masks and clusters")  # fmt: skip
    add_shared(parser, "figure")
    add = parser.add_argument
    add("--names", nargs="+", metavar="NAME", help="of each, for table and figure (default: its folder's)")
    add("--states", type=at_least(1), default=50_000, metavar="N", help="states of [MASK]s a layer, at most")
    add("--frequent", type=at_least(1), default=1000, metavar="N", help="most frequent tokens that are looked at")
    add("--clusters", type=int, default=100, metavar="N", help="clusters of k-means")


def check(args: argparse.Namespace) -> None:
    check_names(args, lambda path: path.resolve().parent.name)


def run(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from fairseq_masking.figures.tables import format_rows
    from fairseq_masking.measure import information
    from fairseq_masking.measure.sequences import masked_batches
    from fairseq_masking.models import MLMModel

    rows = []
    for name, path in zip(args.names, args.checkpoint, strict=True):
        hub = MLMModel.from_pretrained(path, data=args.data)
        batches = masked_batches(hub, args.split, **measured_by(args))
        states, tokens_N = information.collect_states(
            hub, args.data, tqdm(batches, unit="batch", desc=str(path), disable=None),
            num_states=args.states, num_frequent=args.frequent,
        )  # fmt: skip
        rows += information.information_rows(name, states, tokens_N, args.clusters, seed=args.seed)
    print(format_rows(rows, _COLUMNS))
    write_numbers(args, rows)
    if args.figure is not None:
        information.plot_information(rows, args.figure, title=args.note)
