"""What each layer says about spans of words: edge probing (Tenney et al. 2019; 2204.03243, Fig. 4, Table 8).

A linear classifier on frozen states, of each layer and of the mix of all layers up to it. --data is JSON lines
with "text" and "targets" of "span1", perhaps "span2" and "label" (jiant's), or trees in CoNLL-U, as Universal
Dependencies has them. Without --test every fifth sentence is held out, drawn by --seed.

Example:
  fairseq-masking measure probing --checkpoint MLM=mlm.pt AMOS=amos.pt --data train.conllu --test dev.conllu
"""

import argparse
from pathlib import Path

from fairseq_masking.cli.options import add_models, add_shared, named_models, write_numbers

_COLUMNS = {"layer": "{layer}", "micro F1": "{f1:.1f}", "of the mix so far": "{f1_mix:.1f}", "weight": "{weight:.3f}"}
_SAID = "{edges:,} edges, {labels} labels, majority {majority:.1f}, center of gravity {center_of_gravity:.2f}"


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_models(parser, "of any method, or of Hugging Face")
    add("--data", type=Path, required=True, metavar="FILE", help="edges, or trees (*.conllu), to learn from")
    add("--test", type=Path, metavar="FILE", help="the same to be scored on (default: a fifth of --data)")
    add("--of", choices=("pos", "dependency"), default="pos", help="what trees are asked for")
    add("--layers", type=int, nargs="+", metavar="N", help="0 is the embedding (default: all)")
    add("--generator", action="store_true", help="AMOS's, in place of its encoder")
    add("--corpus", type=Path, metavar="DIR", help="that they were trained on (default: as stored in each)")
    add_shared(parser, "seed", "of the sentences that are held out")
    add_shared(parser, "figure")
    add_shared(parser, "out")


def run(args: argparse.Namespace) -> None:
    import numpy as np

    from fairseq_masking.figures.figure import Panel, plot_panels
    from fairseq_masking.figures.tables import format_rows
    from fairseq_masking.measure.edge_probing import edge_states, load_states, probing_rows, read_sentences

    models, rows, curves = named_models(args), [], {}
    sentences = read_sentences(args.data, args.of)
    order = np.random.default_rng(args.seed).permutation(len(sentences))
    held_out = set(order[::5].tolist()) if args.test is None else set()
    train = [sentence for place, sentence in enumerate(sentences) if place not in held_out]
    test = read_sentences(args.test, args.of) if args.test else [sentences[place] for place in sorted(held_out)]
    for name, path in models.items():
        states = load_states(path, args.corpus, args.device, generator=args.generator)
        found = probing_rows(*(edge_states(states, part, args.layers) for part in (train, test)), args.layers)
        print(f"{name}: {(_SAID + ', expected layer {expected_layer:.2f}').format(**found[0])}")
        print(format_rows(found, _COLUMNS), end="\n\n")
        rows += [{"model": name, **row} for row in found]
        curves[name] = {"f1": tuple(np.array([row[key] for row in found]) for key in ("layer", "f1"))}
    write_numbers(args, rows)
    if args.figure is not None:
        panel = Panel("micro F1", [("f1", "o-", "")], xlabel="layer (0: the embedding)")
        plot_panels(curves, [panel], args.figure)
