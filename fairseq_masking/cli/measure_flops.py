"""What pre-training with each method costs beside plain masking, by the matrix products it multiplies.

3ML (2211.04898, Appendix D). speedup: FLOPs of plain masked language modelling (Eq. 2) at
--baseline-mask-prob over those of 3ML (Eq. 3 and 4) at --mask-prob, for the same encoder and length; "paper"
takes the ideal (1 - m*r)n tokens of its formulas, "whole tokens" what a full block really has, whose two
specials are never masked. GFLOPs: one sequence, forward and backward, as the paper counts (matrix products,
backward like forward).

MAP-Net and AMOS, of the same --size and at --baseline-mask-prob: the proposal network where it always runs
and where it runs in its share of the schedule's updates (2008.05333, Section 4.1); the generator with its
heads and the mixture (2204.03243, Section 3.3).

Example:
  fairseq-masking measure flops --size base --mask-prob 0.4 0.5
"""

import argparse
from itertools import product
from typing import Any

from fairseq_masking.cli.options import add_shared, at_least, write_numbers
from fairseq_masking.methods.three_ml.flops import BASELINE_RATE, DECODER_ATTENTIONS

_THREE_ML = {
    "3ML decoder": "{decoder_attention}, {decoder_layers} x {decoder_embed_dim}",
    "masked": "{mask_prob:.0%}",
    "encoder reads": "{encoder_tokens:.0f} of {tokens}",
    "GFLOPs": "{gflops:.1f}",
    "speedup (paper)": "{speedup_paper:.3f}",
    "(whole tokens)": "{speedup_whole_tokens:.3f}",
    "saved": "{share_saved_paper:.1%}",
}
_OTHERS = {"other methods": "{method}", "GFLOPs": "{gflops:.1f}", "over plain masking": "{over:.3f}"}


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    sizes = ("tiny", "small", "base", "large")
    add("--size", choices=(*sizes, *(f"modern_{size}" for size in sizes)), default="base", help="encoder's shape")
    add("--decoder-attention", choices=DECODER_ATTENTIONS, nargs="+", default=DECODER_ATTENTIONS,
        help="of 3ML, as all of --decoder-* (default: both)")  # fmt: skip
    add("--decoder-layers", type=at_least(1), nargs="+", default=[2], metavar="N", help="default: 2")
    add("--decoder-embed-dim", type=at_least(1), nargs="+", metavar="N", help="default: half of the encoder's width")
    add("--vocab-size", type=at_least(1), default=50_265, metavar="N", help="default: 50265, GPT-2's BPE")
    add("--tokens-per-sample", type=at_least(4), default=512, metavar="N", help="default: 512")
    add("--mask-prob", type=float, nargs="+", default=[0.4, 0.5], metavar="P", help="default: 0.4 0.5")
    add("--leave-unmasked-prob", type=float, default=0.1, metavar="P", help="default: 0.1")
    add("--random-token-prob", type=float, default=0.1, metavar="P", help="default: 0.1")
    add("--baseline-mask-prob", type=float, default=BASELINE_RATE, metavar="P", help="of plain masking")
    add("--updates", type=at_least(1), default=125_000, metavar="N", help="of the baseline")
    add_shared(parser, "out", "also write the table, unrounded")


def run(args: argparse.Namespace) -> None:
    from fairseq_masking.figures.tables import format_rows
    from fairseq_masking.masking import MaskingConfig

    for rate in (*args.mask_prob, args.baseline_mask_prob):  # says what is wrong with them
        shares = {"leave_unmasked_prob": args.leave_unmasked_prob, "random_token_prob": args.random_token_prob}
        MaskingConfig(mask_prob=rate, **shares)
    rows = _three_ml_rows(args)
    baseline = rows[0]["baseline_flops"]
    others = _other_rows(args, baseline)
    write_numbers(args, [*rows, *others], timed=False)
    title = f"{args.size} encoder, {args.tokens_per_sample} tokens, |V| = {args.vocab_size:,}; plain masking of"
    title += f" {args.baseline_mask_prob:.0%}: {baseline / 1e9:.1f} GFLOPs a sequence"
    last = {f"updates for the cost of {args.updates:,}": "{updates_at_equal_cost:,.0f}"}
    for row in (*rows, *others):
        row |= {"gflops": row["flops"] / 1e9, "over": row["flops"] / baseline, "tokens": args.tokens_per_sample}
    print(title, format_rows(rows, _THREE_ML | last), format_rows(others, _OTHERS | last), sep="\n\n")


def _three_ml_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    from fairseq_masking.measure.flops import shape_of
    from fairseq_masking.methods.base.options import SIZES
    from fairseq_masking.methods.three_ml import flops

    encoder, tokens = shape_of(SIZES[args.size], args.vocab_size), args.tokens_per_sample
    inner = flops.feed_forward_flops(encoder.feed_forward, encoder.ffn_dim, encoder.embed_dim)
    shares = (args.leave_unmasked_prob, args.random_token_prob)
    widths = args.decoder_embed_dim or [encoder.embed_dim // 2]
    rates = (args.baseline_mask_prob, *args.mask_prob)
    ideal_baseline, *ideals = (flops.ideal_counts(tokens, rate, 1 - sum(shares)) for rate in rates)
    exact_baseline, *exacts = (flops.exact_counts(tokens, rate, *shares) for rate in rates)
    plain = {"num_layers": encoder.num_layers, "dim": encoder.embed_dim, "vocab_size": args.vocab_size}
    baseline_flops = flops.mlm_flops(exact_baseline, **plain, feed_forward=inner)
    counts, rows = zip(args.mask_prob, ideals, exacts, strict=True), []
    every = product(args.decoder_attention, args.decoder_layers, widths, counts)
    for attention, layers, width, (rate, ideal, exact) in every:
        decoder = (layers, width, args.vocab_size, inner)
        shape = flops.ThreeMLShape(attention, encoder.num_layers, encoder.embed_dim, *decoder)
        faster = flops.speedup(shape, ideal, ideal_baseline)
        rows.append({
            "method": "three_ml", "decoder_attention": attention, "decoder_layers": layers, "decoder_embed_dim": width,
            "mask_prob": rate, "encoder_tokens": exact.num_visible, "flops": flops.three_ml_flops(shape, exact),
            "baseline_flops": baseline_flops, "speedup_paper": faster,
            "speedup_whole_tokens": flops.speedup(shape, exact, exact_baseline),
            "share_saved_paper": flops.share_saved(shape, ideal, ideal_baseline),
            "updates_at_equal_cost": args.updates * faster,
        })  # fmt: skip
    return rows


def _other_rows(args: argparse.Namespace, baseline_flops: float) -> list[dict[str, Any]]:
    """MAP-Net and AMOS in those of 3ML's columns that they have."""
    from fairseq_masking.masking import num_masked
    from fairseq_masking.measure.flops import amos_flops, encoder_flops, mean_share_proposed, proposal_share, shape_of
    from fairseq_masking.methods.amos.model import GENERATOR_LAYERS
    from fairseq_masking.methods.base.options import SIZES
    from fairseq_masking.methods.map_net.model import PROPOSAL_SIZES, MapNetConfig

    shape, proposal = shape_of(SIZES[args.size], args.vocab_size), PROPOSAL_SIZES[args.size]
    tokens, maskable = args.tokens_per_sample, args.tokens_per_sample - 2
    counts = {"num_tokens": tokens, "num_masked": num_masked(maskable, maskable, args.baseline_mask_prob)}
    sizes = {name: proposal[f"proposal_{option}"] for name, option in
             (("num_layers", "layers"), ("embed_dim", "embed_dim"), ("ffn_dim", "ffn_embed_dim"))}  # fmt: skip
    share = proposal_share(shape, **sizes, **counts)
    proposed = mean_share_proposed(MapNetConfig.explore_start, MapNetConfig.explore_end)
    depths = GENERATOR_LAYERS[args.size]["generator_layers"]
    over_plain = amos_flops(shape, depths, **counts) / encoder_flops(shape, **counts)
    over_mlm = {
        "map_net, always proposing": 1 + share,
        f"map_net, proposing in {proposed:.1%} of the updates": 1 + proposed * share,
        f"amos, generator layers {', '.join(map(str, depths))}": over_plain,
    }
    same = {"mask_prob": args.baseline_mask_prob, "encoder_tokens": tokens}
    return [
        {"method": name, **same, "flops": over * baseline_flops, "baseline_flops": baseline_flops,
         "speedup_whole_tokens": 1 / over, "updates_at_equal_cost": args.updates / over}
        for name, over in over_mlm.items()
    ]  # fmt: skip
