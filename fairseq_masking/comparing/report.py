"""What a comparison writes: a table, the curves, a page with both, and what counts as a difference.

The rule was fixed before any run: an objective is better or worse than the first one where their means differ
by more than twice the standard deviation of the first one's seeds.
"""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fairseq_masking.comparing.runs import Pretraining, hours_by_update, loss_curve
from fairseq_masking.figures.figure import new_figure, save_figure
from fairseq_masking.figures.tables import format_table, provenance_of, write_csv
from fairseq_masking.files import whole_file

__all__ = ["verdict", "write_report"]

RULE = "better or worse: the means differ by more than twice the standard deviation of the baseline's seeds"
UNIGRAM = 0.3  # bits below the unigram's loss that a run has to reach, and that the two splits may be apart
_MEASURED = ("loss", "accuracy", "blimp", "hours", "peak_mib")
_COSTS = ("hours", "peak_mib")

Values = Mapping[str, Sequence[float]]


def verdict(metric: str, own: Sequence[float], baseline: Sequence[float]) -> str:
    """Return "better", "worse", "no difference" by the rule, or that one seed has no spread; less loss is better."""
    if len(baseline) < 2:
        return "one seed: no verdict"
    gain = (mean(baseline) - mean(own)) if metric == "loss" else (mean(own) - mean(baseline))
    if abs(gain) <= 2 * stdev(baseline):
        return "no difference"
    return "better" if gain > 0 else "worse"


def write_report(
    out: Path,
    plan: Mapping[str, Any],
    tried: Mapping[str, Sequence[Pretraining]],
    seeds: Mapping[str, Sequence[Pretraining]],
    tasks: Mapping[str, Values],
    command: Sequence[str],
) -> None:
    """Write table.csv, curves.png and page.html; print the table and what the gates say."""
    values = {name: {**_values(own), **tasks[name]} for name, own in seeds.items()}
    baseline, rows = next(iter(values.values())), []
    for name, own in values.items():
        cost, chosen = plan["runs"][name], seeds[name][0]
        row: dict[str, Any] = {"run": name, "lr": chosen.lr, "seeds": len(seeds[name])}
        for metric, found in own.items():
            row[metric], row[f"{metric}_sd"] = mean(found), stdev(found) if len(found) > 1 else ""
            if metric not in _COSTS:
                row[f"{metric}_verdict"] = "" if own is baseline else verdict(metric, found, baseline[metric])
        row |= {key: float(cost[key] * cost["updates"]) for key in ("tokens", "flops")}
        row["hours_of_rates"] = sum(run.scores()["hours"] for run in tried[name])  # type: ignore[index]
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
    _plot(out / "curves.png", plan, seeds)
    picture = base64.b64encode((out / "curves.png").read_bytes()).decode()
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    page = Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("comparison.html")
    told = {"header": header, "rows": cells, "said": said, "picture": picture, "command": " ".join(command)}
    with whole_file(out / "page.html") as path:
        path.write_text(page.render(**told), encoding="utf-8")
    print(format_table(header, cells), *said, f"page: {out / 'page.html'}", sep="\n")


def _values(runs: Sequence[Pretraining]) -> dict[str, list[float]]:
    scores = [run.scores() or {} for run in runs]
    return {metric: [own[metric] for own in scores] for metric in _MEASURED if metric in scores[0]}


def _cell(value: Any, spread: Any) -> str:
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{shown} ± {spread:.2g}" if spread else shown


def _plot(path: Path, plan: Mapping[str, Any], seeds: Mapping[str, Sequence[Pretraining]]) -> None:
    """Validation loss of <mask>s against FLOPs and hours: a colour an objective, a line a seed."""
    figure, ((by_flops, by_hours),) = new_figure(1, 2, (10, 4), sharey=True)
    for number, (name, runs) in enumerate(seeds.items()):
        for run in runs:
            log = run.log
            (updates, losses), hours = loss_curve(log), hours_by_update(log)
            style = {"color": f"C{number}", "label": name if run is runs[0] else "_"}
            by_flops.plot([update * plan["runs"][name]["flops"] for update in updates], losses, **style)
            reached = [max((value for at, value in hours.items() if at <= update), default=0) for update in updates]
            by_hours.plot(reached, losses, **style)
    for axes, label in ((by_flops, "FLOPs"), (by_hours, "hours of training")):
        axes.axhline(plan["unigram"]["valid"], color="0.5", linestyle=":", label="unigram")
        axes.set(xlabel=label, ylabel="validation loss of <mask>s, bits")
        axes.grid(alpha=0.3)
    by_flops.legend(fontsize=8)
    save_figure(figure, path)
