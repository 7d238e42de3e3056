"""From checkpoints and tasks to tables, as a paper's protocol has it: what cli/finetune.py promises."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from fairseq.models import ARCH_MODEL_REGISTRY
from omegaconf import OmegaConf

from fairseq_masking.corpus.manifest import read_manifest
from fairseq_masking.corpus.workspace import Reporter
from fairseq_masking.errors import UserError
from fairseq_masking.figures.tables import environment
from fairseq_masking.files import configs_folder, whole_file, write_json
from fairseq_masking.finetuning.baselines import baseline_scores
from fairseq_masking.finetuning.finetuned import Finetuned, predict
from fairseq_masking.finetuning.glue import JSONL
from fairseq_masking.finetuning.prepare import prepare_finetuning
from fairseq_masking.finetuning.protocols import PROTOCOLS, Protocol
from fairseq_masking.finetuning.results import gains_table, plot_over, result_of, scores_table
from fairseq_masking.finetuning.runs import Run, best_of, grid_of, run_all
from fairseq_masking.finetuning.tasks import FinetuningTask, Start, corpus_of, named_path, source_of
from fairseq_masking.methods.base.encoder_model import EncoderModel

__all__ = ["Sweep"]

_MAX_LENGTH = 512  # tokens of a row, as all recipes have it
_OWN = ("common.seed", "checkpoint.save_dir", "task.data", "task.num_classes", "model.init_from")
_say = partial(print, flush=True)


@dataclass(frozen=True)
class Sweep:
    """What to fine-tune, and how: the options of ``fairseq-masking finetune``, where they are explained."""

    task: Sequence[str]
    out: Path
    checkpoint: Sequence[str] = ()
    scratch: str | None = None
    data: Path = Path()
    corpus: Path | None = None
    protocol: str = "fully_explored"
    seeds: int | None = None
    overrides: Sequence[str] = ()
    devices: Sequence[str] = ("cpu",)
    keep_checkpoints: bool = False
    predict: bool = False
    curve: str = "updates"

    def run(self) -> None:
        """Train what has not finished; write and print the tables."""
        self.check()
        starts = self.starts()
        tasks = self.tasks(starts)
        baselines = {task.name: _baselines(task) for task in tasks}
        runs: dict[tuple[FinetuningTask, Start], list[Run]] = {}
        later = [task for task in tasks if task.kind in self.rules.starts_from]
        for stage in ([task for task in tasks if task not in later], later):
            own = {(task, start): self.runs(start, task, runs) for task in stage for start in starts}
            ready = [run for group in own.values() for run in group]
            run_all(ready, devices=self.devices, keep_checkpoints=self.keep_checkpoints, say=_say)
            runs |= own
        results = [result for group in runs.values() for result in result_of(group, self.rules)]
        tables = [scores_table(results, baselines, self.rules), gains_table(results)]
        report = "\n\n".join(table for table in tables if table)
        asked = {"protocol": self.protocol, "overrides": list(self.overrides), **environment()}
        found = {"results": [asdict(result) for result in results], "baselines": baselines}
        write_json(self.out / "results.json", {**asked, **found})
        with whole_file(self.out / "table.md") as path:
            path.write_text(report + "\n", encoding="utf-8")
        plot_over(self.curve, results, self.out / "scores.png")
        print(report)
        for group in runs.values() if self.predict else ():
            _predict(group, self.devices[0])

    @property
    def rules(self) -> Protocol:
        return PROTOCOLS[self.protocol]

    def check(self) -> None:
        """Refuse what would fail, or be ignored, only once runs are trained."""
        if own := [given for given in self.overrides if given.partition("=")[0].lstrip("+") in _OWN]:
            raise UserError(f"--set {own[0]}: that comes from --seeds, --checkpoint, --task and --out: leave it out")
        archs = [name for name, model in ARCH_MODEL_REGISTRY.items() if issubclass(model, EncoderModel)]
        if self.scratch and self.scratch not in archs:
            raise UserError(f"--scratch {self.scratch}: no such architecture, there are {', '.join(sorted(archs))}")
        kinds = [given.partition("=")[0] for given in self.task]
        for kind, base in self.rules.starts_from.items():
            if kind in kinds and base not in kinds:
                raise UserError(
                    f"--protocol {self.protocol} starts {kind} from the {base} model: add {base} to --task;"
                    " its finished runs are not repeated"
                )
        if "cpu" not in self.devices:
            self._check_gpus({self.rules.recipe_of(kind) for kind in kinds})

    def _check_gpus(self, recipes: set[str]) -> None:
        count = torch.cuda.device_count()
        if absent := [device for device in self.devices if int(device.removeprefix("cuda:")) >= count]:
            raise UserError(
                f"--devices: there is no {absent[0]}, PyTorch sees {count} GPUs: count from 0, or give --jobs"
            )
        given = OmegaConf.from_dotlist([each for each in self.overrides if each.startswith("common.cpu=")])
        for recipe in sorted(recipes):
            options = OmegaConf.merge(OmegaConf.load(_recipe(recipe)), given)
            if OmegaConf.select(options, "common.cpu"):
                raise UserError(
                    f"--devices, but the recipe {recipe} trains on CPU: add --set common.cpu=false, or use --jobs"
                )

    def starts(self) -> list[Start]:
        """Return what ``--checkpoint`` and ``--scratch`` name."""
        starts = [Start.of_checkpoint(*named_path(given)) for given in self.checkpoint]
        if self.scratch:
            starts.append(Start("from scratch", 0, (f"model={self.scratch}",)))
        unknown = [start.name for start in starts if start.updates and not start.hours]
        if self.curve == "hours" and unknown:
            raise UserError(f"--curve hours: the checkpoint of {unknown[0]} does not say how long it was trained")
        folders = [start.folder for start in starts]
        if double := [start for start in starts if folders.count(start.folder) > 1]:
            raise UserError(
                f"--checkpoint: two are called {double[0].name} after {double[0].updates} updates: give NAME=PATH"
            )
        return starts

    def tasks(self, starts: Sequence[Start]) -> list[FinetuningTask]:
        """Return what ``--task`` names; what is not prepared is, with rows that all starts can read."""
        tasks: list[FinetuningTask] = []
        for given in self.task:
            kind, source = source_of(given, self.data)
            if read_manifest(source) is None:
                output = self.out / "data" / (source.name if kind == JSONL else kind)
                prepare_finetuning(
                    kind,
                    source.absolute(),
                    output,
                    corpus=self._corpus(),
                    max_length=min(_MAX_LENGTH, *(start.max_positions or _MAX_LENGTH for start in starts)),
                    reporter=Reporter(),
                )
                source = output
            task = FinetuningTask.of_folder(source)
            if task.kind != kind:
                raise UserError(f"{source} was prepared for {task.kind}, not for {kind}")
            if task.name in [other.name for other in tasks]:
                raise UserError(f"--task: two are called {task.name}: give one, the other with another --out")
            for start in starts:
                task.check_fits(start)
            tasks.append(task)
        return tasks

    def _corpus(self) -> Path:
        """The corpus of all checkpoints."""
        if self.corpus:
            return self.corpus
        paths = [named_path(given)[1] for given in self.checkpoint]
        if foreign := [path for path in paths if not path.endswith(".pt")]:
            raise UserError(f"{foreign[0]} names no corpus: give --corpus DIR, prepared with --tokenizer-from it")
        corpora = {corpus_of(Path(path)).resolve() for path in paths}
        if len(corpora) > 1:
            raise UserError(
                f"the checkpoints were trained on {' and '.join(map(str, sorted(corpora)))}: sweep each"
                " corpus's apart, or give --corpus where their tokenisers are the same"
            )
        return corpora.pop()

    def runs(
        self, start: Start, task: FinetuningTask, finished: Mapping[tuple[FinetuningTask, Start], Sequence[Run]]
    ) -> list[Run]:
        """Return a start's runs on a task, from the best of ``finished`` where the protocol has it so."""
        recipe, base = _recipe(self.rules.recipe_of(task.kind)), self.rules.starts_from.get(task.kind)
        if base is not None:
            runs = next(own for (other, before), own in finished.items() if (other.kind, before) == (base, start))
            best = best_of(runs)
            if best is None:
                raise UserError(
                    f"{runs[0].task_folder} has lost its best run's checkpoint, which others start from:"
                    " remove the folder to train it again"
                )
            start = replace(Start.of_checkpoint(start.name, str(best.absolute()), start.updates), hours=start.hours)
        metric, common = self.rules.metric_of(task.kind), tuple(self.overrides)
        return [
            Run(start, task, configuration, seed, recipe, metric, common, self.out)
            for configuration in grid_of(recipe, self.overrides)
            for seed in range(1, (self.seeds or self.rules.num_seeds) + 1)
        ]


def _recipe(name: str) -> Path:
    return configs_folder() / "finetune" / f"{name}.yaml"


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
