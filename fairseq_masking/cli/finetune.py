"""finetune: checkpoints' scores on labelled tasks, as a paper's protocol has them.

Prepares the tasks with the tokeniser of the checkpoints' corpus, trains the grid of configs/finetune times
the seeds, chooses, and writes OUT/table.md, OUT/results.json and, where checkpoints of one training share a
name, OUT/scores.png. Finished runs are not repeated, killed ones go on.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from omegaconf import OmegaConf

import fairseq_masking
from fairseq_masking.cli.parsing import OneLineParser, at_least, run_reporting
from fairseq_masking.corpus.manifest import read_manifest
from fairseq_masking.corpus.workspace import Reporter
from fairseq_masking.errors import UserError
from fairseq_masking.figures.provenance import environment
from fairseq_masking.files import whole_file
from fairseq_masking.finetuning.baselines import baseline_scores
from fairseq_masking.finetuning.finetuned import Finetuned
from fairseq_masking.finetuning.prepare import FinetunePreparation, prepare_finetuning
from fairseq_masking.finetuning.protocols import PROTOCOLS, Protocol
from fairseq_masking.finetuning.results import (
    Baselines,
    Result,
    gains_table,
    plot_over_updates,
    result_of,
    scores_table,
)
from fairseq_masking.finetuning.runs import Run, best_of, grid_of, run_all
from fairseq_masking.finetuning.submission import predict
from fairseq_masking.finetuning.tasks import (
    FinetuningTask,
    Start,
    corpus_of,
    named_path,
    read_start,
    source_of,
)

__all__ = ["get_parser", "main"]

_MAX_LENGTH = 512  # tokens of a row, as all recipes have it
_OWN = ("common.seed", "checkpoint.save_dir", "task.data", "task.num_classes", "model.init_from")
_Runs = dict[tuple[FinetuningTask, Start], list[Run]]


def get_parser() -> argparse.ArgumentParser:
    """Returns the command's parser."""
    parser = OneLineParser(
        prog="finetune", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--checkpoint", nargs="+", action="extend", default=[], metavar="[NAME=]PATH",
        help="of any method, or a Hugging Face folder; checkpoints of one training share a name; gains are"
        " measured against the first")  # fmt: skip
    add(
        "--scratch", metavar="ARCH", help="also train this architecture from random weights, such as mlm_base"
    )
    add("--task", nargs="+", action="extend", required=True, metavar="TASK[=DIR]",
        help="GLUE's names, squad, or jsonl; with its own folder, if --data has not")  # fmt: skip
    add("--data", type=Path, default=Path(), metavar="DIR",
        help="the task's files, folders TASK of them, or data made by prepare_finetune")  # fmt: skip
    add(
        "--corpus", metavar="DIR", help="prepared corpus to take the tokeniser of (default: the checkpoints')"
    )
    add("--out", type=Path, required=True, metavar="DIR", help="folder of runs and results")
    add("--protocol", choices=tuple(PROTOCOLS), default="fully_explored",
        help="grid, seeds, selection and average (default: fully_explored, which is RoBERTa's)")  # fmt: skip
    add("--seeds", type=int, metavar="N", help="runs of each configuration (default: the protocol's)")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="overrides of the recipe for every run; what they set is not swept",
    )
    places = parser.add_mutually_exclusive_group()
    places.add_argument("--jobs", type=int, metavar="N", help="runs at a time on CPU (default: 1)")
    places.add_argument("--devices", type=_numbers, metavar="N,N", help="GPUs, one run at a time on each")
    add("--keep-checkpoints", action="store_true", help="of all runs (default: of each task's best)")
    add("--predict", action="store_true",
        help="also write the best runs' predictions: GLUE's submission files, SQuAD's JSON")  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, 1 for bad input, 130 interrupted (2: wrong options)."""
    parser = get_parser()
    args = parser.parse_args(argv)
    at_least(parser, args, seeds=1, jobs=1)
    if not args.checkpoint and not args.scratch:
        parser.error("nothing to fine-tune: give --checkpoint PATH or --scratch ARCH")
    if not args.checkpoint and not args.corpus:
        parser.error("--scratch alone has no tokeniser: give --corpus DIR")
    return run_reporting(parser, lambda: _sweep(args), args.out)


def _sweep(args: argparse.Namespace) -> None:
    protocol = PROTOCOLS[args.protocol]
    _check_options(args, protocol)
    starts = _starts(args)
    tasks = _tasks(args, starts)
    baselines = {task.name: _baselines(task) for task in tasks}
    devices = args.devices or ["cpu"] * (args.jobs or 1)
    runs: _Runs = {}
    later = [task for task in tasks if task.kind in protocol.starts_from]
    for stage in ([task for task in tasks if task not in later], later):
        own = {(task, start): _runs(start, task, protocol, args, runs) for task in stage for start in starts}
        run_all(
            [run for group in own.values() for run in group],
            devices=devices,
            keep_checkpoints=args.keep_checkpoints,
            say=_say,
        )
        runs |= own
    results = [result for group in runs.values() for result in result_of(group, protocol)]
    _report(args, protocol, baselines, results)
    for group in runs.values() if args.predict else ():
        _predict(group, devices[0])


def _check_options(args: argparse.Namespace, protocol: Protocol) -> None:
    """Refuses what would fail, or be ignored, only once runs are trained."""
    if own := [given for given in args.set if given.partition("=")[0].lstrip("+") in _OWN]:
        raise UserError(
            f"--set {own[0]}: that comes from --seeds, --checkpoint, --task and --out: leave it out"
        )
    kinds = [given.partition("=")[0] for given in args.task]
    for kind, base in protocol.starts_from.items():
        if kind in kinds and base not in kinds:
            raise UserError(
                f"--protocol {args.protocol} starts {kind} from the {base} model: add {base} to --task; its"
                " finished runs are not repeated"
            )
    if args.devices:
        _check_devices(args, {protocol.recipe_of(kind) for kind in kinds})


def _check_devices(args: argparse.Namespace, recipes: set[str]) -> None:
    count = torch.cuda.device_count()
    if absent := [device for device in args.devices if int(device.removeprefix("cuda:")) >= count]:
        raise UserError(
            f"--devices: there is no {absent[0]}, PyTorch sees {count} GPUs: count from 0, or give --jobs"
        )
    given = OmegaConf.from_dotlist([each for each in args.set if each.startswith("common.cpu=")])
    for recipe in sorted(recipes):
        options = OmegaConf.merge(OmegaConf.load(_recipes() / f"{recipe}.yaml"), given)
        if OmegaConf.select(options, "common.cpu"):
            raise UserError(
                f"--devices, but the recipe {recipe} trains on CPU: add --set common.cpu=false, or use --jobs"
            )


def _starts(args: argparse.Namespace) -> list[Start]:
    starts = [read_start(*named_path(given)) for given in args.checkpoint]
    if args.scratch:
        starts.append(Start("from scratch", 0, (f"model={args.scratch}",)))
    folders = [start.folder for start in starts]
    if double := [start for start in starts if folders.count(start.folder) > 1]:
        raise UserError(
            f"--checkpoint: two are called {double[0].name} after {double[0].updates} updates: give NAME=PATH"
        )
    return starts


def _tasks(args: argparse.Namespace, starts: Sequence[Start]) -> list[FinetuningTask]:
    """Prepares what is not, with rows that all starts can read."""
    tasks: list[FinetuningTask] = []
    for given in args.task:
        kind, source = source_of(given, args.data)
        name = source.name if kind == "jsonl" else kind
        if read_manifest(source) is None:
            preparation = FinetunePreparation(
                task=kind,
                source=source.absolute(),
                corpus=_corpus(args),
                output=args.out / "data" / name,
                max_length=min(_MAX_LENGTH, *(start.max_positions or _MAX_LENGTH for start in starts)),
            )
            prepare_finetuning(preparation, reporter=Reporter())
            source = preparation.output
        task = FinetuningTask.of_folder(source)
        if task.kind != kind:
            raise UserError(f"{source} was prepared for {task.kind}, not for {kind}")
        if task.name in [other.name for other in tasks]:
            raise UserError(f"--task: two are called {task.name}: give one, the other with another --out")
        for start in starts:
            task.check_fits(start)
        tasks.append(task)
    return tasks


def _corpus(args: argparse.Namespace) -> Path:
    """The corpus of all checkpoints."""
    if args.corpus:
        return Path(args.corpus)
    paths = [named_path(given)[1] for given in args.checkpoint]
    if foreign := [path for path in paths if not path.endswith(".pt")]:
        raise UserError(f"{foreign[0]} names no corpus: give --corpus DIR, prepared with --tokenizer-from it")
    corpora = {corpus_of(Path(path)).resolve() for path in paths}
    if len(corpora) > 1:
        raise UserError(
            f"the checkpoints were trained on {' and '.join(map(str, sorted(corpora)))}: sweep each corpus's"
            " apart, or give --corpus where their tokenisers are the same"
        )
    return corpora.pop()


def _runs(
    start: Start, task: FinetuningTask, protocol: Protocol, args: argparse.Namespace, finished: _Runs
) -> list[Run]:
    recipe = _recipes() / f"{protocol.recipe_of(task.kind)}.yaml"
    if task.kind in protocol.starts_from:
        start = _started_from(protocol.starts_from[task.kind], start, finished)
    return [
        Run(
            start,
            task,
            configuration,
            seed,
            recipe,
            protocol.metric_of(task.kind),
            tuple(args.set),
            args.out,
        )
        for configuration in grid_of(recipe, args.set)
        for seed in range(1, (args.seeds or protocol.num_seeds) + 1)
    ]


def _started_from(other: str, start: Start, finished: _Runs) -> Start:
    """The same start after fine-tuning on another task."""
    runs = next(own for (task, before), own in finished.items() if (task.kind, before) == (other, start))
    best = best_of(runs)
    if best is None:
        raise UserError(
            f"{runs[0].task_folder} has lost its best run's checkpoint, which others start from: remove the"
            " folder to train it again"
        )
    return Start.of_checkpoint(start.name, start.updates, str(best.absolute()))


def _predict(runs: Sequence[Run], device: str) -> None:
    best = best_of(runs)
    if best is None:
        _say(f"no predictions in {runs[0].task_folder}: the checkpoint of its best run is gone")
    else:
        predict(Finetuned.load(best, device=device), runs[0].task_folder / "predictions")


def _baselines(task: FinetuningTask) -> dict[str, dict[str, dict[str, float]]]:
    """Empty where they cannot be had: the runs are worth more."""
    try:
        return baseline_scores(task.data)
    except UserError as error:
        _say(f"no baselines of {task.name}: {error}")
        return {}


def _report(
    args: argparse.Namespace, protocol: Protocol, baselines: Baselines, results: Sequence[Result]
) -> None:
    tables = [scores_table(results, baselines, protocol), gains_table(results)]
    report = "\n\n".join(table for table in tables if table)
    found = {
        "protocol": args.protocol,
        "overrides": args.set,
        **environment(),
        "results": [asdict(result) for result in results],
        "baselines": baselines,
    }
    for name, text in (("results.json", json.dumps(found, indent=1)), ("table.md", report)):
        with whole_file(args.out / name) as partial:
            partial.write_text(text + "\n", encoding="utf-8")
    plot_over_updates(results, args.out / "scores.png")
    print(report)


def _recipes() -> Path:
    package = Path(fairseq_masking.__path__[0])
    return next(
        folder / "configs" / "finetune"
        for folder in (package, package.parent)
        if (folder / "configs" / "finetune").is_dir()
    )


def _numbers(text: str) -> list[str]:
    numbers = text.split(",")
    if not all(number.isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of GPU numbers such as 0,1")
    return [f"cuda:{int(number)}" for number in numbers]


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
