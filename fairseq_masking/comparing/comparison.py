"""A comparison: its settings, its plan, its runs one after the other, and what it writes.

The rule was fixed before any run: an objective is better or worse than the first one where their means differ
by more than twice the standard deviation of the first one's seeds.
"""

import base64
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from omegaconf import OmegaConf

from fairseq_masking.comparing.runs import Pretraining, unigram_losses
from fairseq_masking.corpus.dictionary import load_dictionary
from fairseq_masking.corpus.manifest import DICTIONARY_FILE
from fairseq_masking.errors import UserError, first_line
from fairseq_masking.figures.figure import Curves, Panel, plot_panels
from fairseq_masking.figures.tables import format_rows, format_table, provenance_of, write_csv
from fairseq_masking.files import configs_folder, read_json, whole_file, write_json
from fairseq_masking.finetuning.runs import run_all
from fairseq_masking.finetuning.sweep import Sweep
from fairseq_masking.measure.cost import cost_of

__all__ = ["Comparison", "Objective", "read_settings", "verdict", "write_report"]

RULE = "better or worse: the means differ by more than twice the standard deviation of the baseline's seeds"
UNIGRAM = 0.3  # bits below the unigram's loss that a run has to reach, and that the two splits may be apart
_MEASURED = ("loss", "accuracy", "blimp", "hours", "peak_mib")
_COSTS = ("hours", "peak_mib")
Runs = Mapping[str, Sequence[Pretraining]]  # by objective
Scores = dict[str, list[float]]  # by metric or task, of each seed
_say = partial(print, flush=True)
_BUDGETS = ("tokens", "flops", "hours")
_EXPECTED = {"run": "{name}", "updates": "{updates:,}", "tokens": "{tokens:.3g}", "FLOPs": "{flops:.3g}",
             "trainings": "{number}", "hours": "{hours:.2f}", "disk, GiB": "{disk:.2f}"}  # fmt: skip


@dataclass
class Objective:
    """A line of the table: a recipe of configs/pretrain and overrides on top of it."""

    recipe: str = ""  # default: the comparison's
    overrides: list[str] = field(default_factory=list)


@dataclass
class Comparison:
    """The settings, as a file of configs/compare has them."""

    runs: dict[str, Objective]  # the first one is the baseline
    recipe: str = "mlm_tiny"
    budget: dict[str, float] = field(default_factory=dict)  # one of tokens, flops or hours, of every run
    lr: list[float] = field(default_factory=list)  # tried by each objective with the first seed
    seeds: int = 3
    overrides: list[str] = field(default_factory=list)  # of all runs
    valid_tokens: int = 64  # of the rows that the masked loss is measured on
    tasks: list[str] = field(default_factory=list)  # of ``finetune``, with their options
    tasks_data: str = ""
    protocol: str = "tiny"

    def compare(
        self, data: Path, out: Path, *, minimal_pairs: Path | None, devices: Sequence[str], dry: bool, argv: list[str]
    ) -> None:
        """Train and measure what has not been, write ``out``; dry: print commands, expected hours and disk."""
        plan = self.plan(data, out)

        def run(name: str, lr: float, seed: int) -> Pretraining:
            updates, measured = plan["runs"][name]["updates"], (minimal_pairs, self.valid_tokens)
            return Pretraining(name, *self.recipe_of(name), lr, seed, updates, data, out, *measured)

        tried = {name: [run(name, lr, 1) for lr in self.lr] for name in self.runs}
        first = [each for own in tried.values() for each in own]
        if dry:
            self._tell(plan, first)
            return
        for split, bits in plan["unigram"].items():
            _say(f"unigram of the training text on {split}: {bits:.3f} bits")
        run_all(first, devices=devices, keep_checkpoints=True, say=_say)
        chosen = {name: min(own, key=lambda each: each.scores()["loss"]).lr for name, own in tried.items()}
        seeds = {name: [run(name, lr, 1 + seed) for seed in range(self.seeds)] for name, lr in chosen.items()}
        run_all([each for own in seeds.values() for each in own], devices=devices, keep_checkpoints=True, say=_say)
        write_report(out, plan, tried, seeds, self._tasks(seeds, data, out, devices), argv)

    def recipe_of(self, name: str) -> tuple[Path, tuple[str, ...]]:
        """Return an objective's recipe and overrides."""
        own = self.runs[name]
        recipe = configs_folder() / "pretrain" / f"{own.recipe or self.recipe}.yaml"
        return recipe, (*self.overrides, *own.overrides)

    def plan(self, data: Path, out: Path) -> dict[str, Any]:
        """Return unigram losses and, by objective, the cost and number of updates: measured once, kept in plan.json.

        Raises:
            UserError: ``out`` holds another comparison, or an objective cannot be built.
        """
        settings = {**OmegaConf.to_container(OmegaConf.structured(self)), "data": str(data.absolute())}
        path = out / "plan.json"
        plan = read_json(path, optional=True)
        if plan and plan["settings"] != settings:
            changed = [name for name, value in settings.items() if plan["settings"].get(name) != value]
            raise UserError(f"{out} holds a comparison with other settings ({', '.join(changed)}): give another --out")
        if plan:
            return plan
        unigram = unigram_losses(data, load_dictionary(data / DICTIONARY_FILE))
        plan = {"settings": settings, "unigram": unigram, "runs": {}}
        (kind, amount), *_ = self.budget.items()
        place = [f"task.data='{data.absolute()}'", f"checkpoint.save_dir='{(out / 'plan').absolute()}'"]
        for name in self.runs:
            recipe, options = self.recipe_of(name)
            cost = cost_of(recipe, [*options, *place])
            each = cost["seconds"] / 3600 if kind == "hours" else cost[kind]
            plan["runs"][name] = {**cost, "updates": max(1, math.floor(amount / each))}
        write_json(path, plan)
        return plan

    def _tell(self, plan: Mapping[str, Any], runs: Sequence[Pretraining]) -> None:
        for run in runs:
            print(shlex.join(["fairseq-hydra-train", *run.arguments]))
        number, rows = len(self.lr) + self.seeds - 1, []
        for name, cost in plan["runs"].items():
            whole = {key: cost["updates"] * cost[key] for key in ("tokens", "flops", "seconds")}
            hours, disk = number * whole["seconds"] / 3600, number * 3 * 12 * cost["parameters"] / 2**30
            rows.append({"name": name, "number": number, "hours": hours, "disk": disk, **cost, **whole})
        print("and the best rate of each with the other seeds; expected, without validation and scores:\n")
        print(format_rows(rows, _EXPECTED))

    def _tasks(self, seeds: Runs, data: Path, out: Path, devices: Sequence[str]) -> dict[str, Scores]:
        """Return objective -> task -> the score of each seed's checkpoint."""
        found: dict[str, Scores] = {name: {} for name in seeds}
        if not self.tasks:
            return found
        given = {f"{run.name}-seed{run.seed}": run for own in seeds.values() for run in own}
        starts = [f"{label}={run.result}" for label, run in given.items()]
        sweep = Sweep(self.tasks, out / "tasks", starts, data=Path(self.tasks_data), corpus=data,
                      protocol=self.protocol, devices=devices)  # fmt: skip
        sweep.run()
        for result in read_json(out / "tasks" / "results.json")["results"]:
            if not result["task"].endswith(" test"):
                found[given[result["name"]].name].setdefault(result["task"], []).append(result["score"])
        return found


def read_settings(given: str, overrides: Sequence[str]) -> Comparison:
    """Read a file, or one of configs/compare by its name, and KEY=VALUE on top.

    Raises:
        UserError: there is none, or it says what is not known.
    """
    path = Path(given) if Path(given).is_file() else configs_folder() / "compare" / f"{given}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(one.stem for one in path.parent.glob("*.yaml")))
        raise UserError(f"--config {given}: no such file; there are: {names}")
    try:
        given_by = (OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides)))
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Comparison), *given_by))
    except Exception as error:  # OmegaConf's, yaml's
        raise UserError(f"{path}: {first_line(error)}") from error
    if len(settings.budget) != 1 or not settings.budget.keys() <= {*_BUDGETS} or not settings.lr or not settings.runs:
        raise UserError(f"{path}: give runs, lr, a list, and budget with one of {', '.join(_BUDGETS)}")
    return settings


def verdict(metric: str, own: Sequence[float], baseline: Sequence[float]) -> str:
    """Return "better", "worse", "no difference" by the rule, or that one seed has no spread; less loss is better."""
    if len(baseline) < 2:
        return "one seed: no verdict"
    gain = (mean(baseline) - mean(own)) if metric == "loss" else (mean(own) - mean(baseline))
    if abs(gain) <= 2 * stdev(baseline):
        return "no difference"
    return "better" if gain > 0 else "worse"


def write_report(
    out: Path, plan: Mapping[str, Any], tried: Runs, seeds: Runs, tasks: Mapping[str, Scores], command: Sequence[str]
) -> None:
    """Write table.csv, curves.png and page.html; print the table and what the gates say."""
    values: dict[str, Scores] = {}
    for name, own in seeds.items():
        scores = [run.scores() or {} for run in own]
        measured = {metric: [found[metric] for found in scores] for metric in _MEASURED if metric in scores[0]}
        values[name] = {**measured, **tasks[name]}
    baseline, rows = next(iter(values.values())), []
    for name, own in values.items():
        cost, chosen = plan["runs"][name], seeds[name][0]
        row: dict[str, Any] = {"run": name, "lr": chosen.lr, "seeds": len(seeds[name])}
        for metric, found in own.items():
            row[metric], row[f"{metric}_sd"] = mean(found), stdev(found) if len(found) > 1 else ""
            if metric not in _COSTS:
                row[f"{metric}_verdict"] = "" if own is baseline else verdict(metric, found, baseline[metric])
        row |= {key: float(cost[key] * cost["updates"]) for key in ("tokens", "flops")}
        row["hours_of_rates"] = sum(run.scores()["hours"] for run in tried[name])
        row["on_the_unigram"] = row["loss"] > plan["unigram"]["valid"] - UNIGRAM
        rows.append(row)
    train, valid = plan["unigram"]["train"], plan["unigram"]["valid"]
    said = [f"{RULE}.", f"Unigram: {train:.3f} bits on train, {valid:.3f} on valid."]
    if valid - train > UNIGRAM:
        said.append(f"The validation set is another kind of text: {valid - train:.2f} bits further from the unigram.")
    said += [f"{row['run']} stays on the unigram: it tells nothing." for row in rows if row["on_the_unigram"]]
    write_csv(out / "table.csv", rows, provenance_of(command))
    header = [key for key in rows[0] if not key.endswith("_sd")]
    cells = [[_cell(row[key], row.get(f"{key}_sd")) for key in header] for row in rows]
    panels = [
        Panel("validation loss of <mask>s, bits", [(by, "-", "")], plan["unigram"]["valid"], "unigram", xlabel)
        for by, xlabel in (("flops", "FLOPs"), ("hours", "hours of training"))
    ]
    curves = {name: _curves(own, plan["runs"][name]["flops"]) for name, own in seeds.items()}
    plot_panels(curves, panels, out / "curves.png")
    picture = base64.b64encode((out / "curves.png").read_bytes()).decode()
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    page = Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("comparison.html")
    told = {"header": header, "rows": cells, "said": said, "picture": picture, "command": " ".join(command)}
    with whole_file(out / "page.html") as path:
        path.write_text(page.render(**told), encoding="utf-8")
    print(format_table(header, cells), *said, f"page: {out / 'page.html'}", sep="\n")


def _cell(value: Any, spread: Any) -> str:
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{shown} ± {spread:.2g}" if spread else shown


def _curves(runs: Sequence[Pretraining], flops: float) -> Curves:
    """Validation loss by FLOPs and by hours, a line a seed (NaN parts them); a run's updates all take as long."""
    found: dict[str, list[tuple[float, float]]] = {"flops": [], "hours": []}
    for run in runs:
        hours = run.scores()["hours"] / run.updates
        for by, cost in (("flops", flops), ("hours", hours)):
            found[by] += [(update * cost, loss) for update, loss in zip(*run.loss_curve(), strict=True)]
            found[by].append((math.nan, math.nan))
    return {by: tuple(np.array(points).T) for by, points in found.items()}
