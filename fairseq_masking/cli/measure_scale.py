"""Where a recipe stops gaining by more GPUs, on paper: what an update computes, launches and reduces.

FLOPs and operators are counted here, on one sequence of random text; the rest is said by the options, whose defaults
are an H100's with 400 Gbit/s of network for each. "efficiency" is the time of the model's arithmetic at
--utilisation over that of the update. What it leaves out: loading of data, stragglers, other traffic.

Example:
  fairseq-masking measure scale --config mlm_base --gpus 8 64 256
"""

import argparse

from fairseq_masking.cli.options import add_recipe, add_shared, at_least, recipe_of, write_numbers

_COLUMNS = {
    "GPUs": "{gpus:,}", "rows at once": "{rows}", "batches": "{micro_batches}", "computes, ms": "{computed:.1f}",
    "waits for reduction, ms": "{exposed:.1f}", "optimizer, ms": "{optimizer:.1f}", "tokens/s": "{tokens:,.0f}",
    "efficiency": "{efficiency:.0%}", "hours": "{hours:.1f}",
}  # fmt: skip
_ENOUGH = 0.8  # efficiency below which a larger batch is looked for


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_recipe(parser)
    add("--vocab-size", type=at_least(1), default=50_265, metavar="N", help="default: 50265, GPT-2's BPE")
    add("--gpus", type=at_least(1), nargs="+", metavar="N", help="default: 8 64 256 1024, of them at most a row each")
    add("--gpus-per-node", type=at_least(1), default=8, metavar="N", help="default: 8")
    add("--peak", type=at_least(1.0), default=989.0, metavar="TFLOPS", help="of dense products")
    add("--utilisation", type=at_least(0.01), default=0.5, metavar="P", help="that they reach")
    add("--bandwidth", type=at_least(0.1), default=400.0, metavar="GBIT",
        help="a second of a GPU to other nodes")  # fmt: skip
    add("--node-bandwidth", type=at_least(0.1), default=450.0, metavar="GBYTE",
        help="a second of a GPU within its node, one way")  # fmt: skip
    add("--latency", type=at_least(0.0), default=10.0, metavar="US", help="of a step of a reduction")
    add("--launch", type=at_least(0.0), default=3.0, metavar="US", help="of the host for an operator")
    add_shared(parser, "out", "also write the table, unrounded")


def run(args: argparse.Namespace) -> None:
    from fairseq_masking.figures.tables import format_rows
    from fairseq_masking.measure.scale import Cluster, best_batch, update_time, work_of

    cluster = Cluster(args.peak * 1e12, args.utilisation, args.gpus_per_node, args.node_bandwidth * 1e9,
                      args.bandwidth * 1e9 / 8, args.latency * 1e-6, args.launch * 1e-6)  # fmt: skip
    work = work_of(recipe_of(args), args.overrides, vocab_size=args.vocab_size)
    asked = args.gpus or [number for number in (8, 64, 256, 1024) if number <= work.global_batch]
    found = [update_time(work, cluster, gpus=gpus) for gpus in sorted(asked)]
    rows = [
        {**update._asdict(), **{name: 1e3 * getattr(update, name) for name in ("computed", "exposed", "optimizer")},
         "tokens": work.global_batch * work.tokens / update.seconds, "hours": work.updates * update.seconds / 3600}
        for update in found
    ]  # fmt: skip
    write_numbers(args, rows)
    each = f"{work.flops / 1e9:,.0f} GFLOPs a row, {work.operators} operators a batch, {work.parameters:,} parameters"
    print(f"{args.config}: {work.global_batch:,} rows of {work.tokens} tokens an update, {each}\n")
    print(format_rows(rows, _COLUMNS))
    for update in found:
        if update.efficiency < _ENOUGH:
            batch = best_batch(work, cluster, gpus=update.gpus, efficiency=_ENOUGH)
            way = f"task.global_batch={batch} reaches {_ENOUGH:.0%}" if batch else "no larger batch helps"
            print(f"{update.gpus:,} GPUs wait for {update.bound_by}: {way}")
