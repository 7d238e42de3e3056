"""Every benchmark runs through on a toy, and its CSV says what and where; gpu.sh keeps to its budget."""

import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from commands import ROOT, write_corpus

BENCH = ROOT / "scripts/bench"
TOY = ["--arch", "tiny", "--tokens", "16", "--rows", "4"]
TURNS = ["--steps", "2", "--turns", "2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A corpus large enough for batches of 4 x 16 tokens."""
    folder = tmp_path_factory.mktemp("bench_data")
    write_corpus(folder, {"train": 100, "valid": 20})
    return str(folder)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a benchmark in this process: a new one would spend five seconds on its imports."""
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.setattr(sys, "argv", sys.argv[:1])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return load


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert all(row["device"] and row["torch"] and row["commit"] for row in rows)
    return rows


def test_step(script: Callable[[str], ModuleType], data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", time.process_time)  # a busy machine's times add up, too
    out = tmp_path / "step.csv"
    systems = ["fairseq_masking", "fairseq_masking+eager", "stock_fairseq"]
    options = ["--part-steps", "2", "--no-memory", "--systems", *systems, "--out", str(out)]
    script("step").main(["--data", data, *TOY, *TURNS, *options])
    rows = rows_of(out)
    assert [row["system"] for row in rows] == systems
    for row in rows:
        parts = [float(row[f"{part}_ms"]) for part in ("forward", "backward", "optimizer")]
        assert all(part > 0 for part in parts)
        assert sum(parts) < float(row["whole_ms"]) * 1.05  # medians of different steps
        # 4 rows of 16 tokens, 2 masked each, V=204, D=128, F=512: forward of a layer 7,143,424, head 169,984.
        layer = 2 * 16 * 128 * (4 * 128 + 2 * 512) + 4 * 16 * 16 * 128
        head = 2 * 2 * 128 * (128 + 204)
        assert float(row["gflop_per_step"]) == round(3 * 4 * (2 * layer + head) / 1e9, 3)
        assert 0 < float(row["utilisation_of_matmul_peak"]) < 1.5
    assert float(rows[-1]["speed_over_stock"]) == 1.0


def test_waiting(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    """Its counts are what issue 20 asks for; the rest is times."""
    out = tmp_path / "waiting.csv"
    script("waiting").main(["--only", "launches", "positions", "products", "lines", "--out", str(out)])
    now = {row["item"]: float(row["now"]) for row in rows_of(out)}
    assert now["20.1"] <= 580 and now["20.2"] == 0 and now["20.5"] == 3 and now["20.7"] <= 8


def test_pools_go_on_where_they_stopped(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each order at each seed, once; a seed's score is its best epoch's."""
    pools, trained = script("pools"), []

    def train(folder: Path, order: str, given: list[str]) -> None:
        trained.append(folder.name)
        scores = [0.5, 0.25] if order == "pools" else [0.125, 0.25]
        line = '{{"valid_num_updates": {}, "valid_mcc": {}, "valid_accuracy": 7}}\n{{"num_updates": 1, "wps": 5}}\n'
        (folder / "train.log").write_text("".join(line.format(at, score) for at, score in enumerate(scores)))

    for name in ("verb", "train_once"):
        monkeypatch.setattr(pools, name, lambda *_: None)
    monkeypatch.setattr(pools, "padding", lambda data: {"random": 2.0, "pools": 1.0})
    monkeypatch.setattr(pools, "_forked", train)
    out = tmp_path / "pools.csv"
    command = ["--corpus", "text", "--glue", "glue", "--folder", str(tmp_path), "--out", str(out), "--seeds", "1"]
    pools.main([*command, "--tasks", "CoLA"])
    pools.main(command)
    assert trained == ["CoLA_random_1", "CoLA_pools_1", "SST-2_random_1", "SST-2_pools_1"]
    assert [(row["order"], row["score"], row["tokens_ratio"]) for row in rows_of(out)][:2] == [
        ("random", "0.25", "2.0"), ("pools", "0.5", "1.0")
    ]  # fmt: skip


def test_step_measures_memory_in_a_process_of_its_own(script: Callable[[str], ModuleType], data: str) -> None:
    step = script("step")
    setting = step.Setting(data, "tiny", 16, 4, "fp32", "cpu")
    arguments = [*setting.arguments(), "--memory-of", "fairseq_masking"]
    mib = step.bench.memory_of_child(str(BENCH / "step.py"), arguments)
    assert 3 < mib < 500  # at least gradients and two moments of 0.5 M parameters


def test_a_variant_that_does_not_work_costs_no_numbers(
    script: Callable[[str], ModuleType], data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = script("step")
    monkeypatch.setitem(sys.modules["systems"].VARIANTS, "eager", ("--compile", "perhaps"))
    out = tmp_path / "step.csv"
    systems = ["fairseq_masking+eager", "fairseq_masking"]
    options = ["--part-steps", "0", "--no-bound", "--no-memory", "--systems", *systems, "--out", str(out)]
    with pytest.raises(SystemExit, match=r"did not run: fairseq_masking\+eager"):
        step.main(["--data", data, *TOY, *TURNS, *options])
    assert [row["system"] for row in rows_of(out)] == ["fairseq_masking"]


def test_unknown_system_is_one_line(script: Callable[[str], ModuleType]) -> None:
    with pytest.raises(SystemExit, match=r"unknown system 'fairseq_masking\+fast'.*\+fused_adamw"):
        script("step").main(["--systems", "fairseq_masking+fast"])
    with pytest.raises(SystemExit, match="unknown system"):
        script("scaling").main(["--systems", "stock_fairseq+eager"])


def test_scaling(script: Callable[[str], ModuleType], data: str, tmp_path: Path) -> None:
    out = tmp_path / "scaling.csv"
    options = ["--arch", "tiny", "--tokens", "16", "32", "--batch-tokens", "64", "--no-memory"]
    script("scaling").main(["--data", data, *options, *TURNS, "--out", str(out)])
    assert [(row["tokens"], row["rows"]) for row in rows_of(out)] == [("16", "4")] * 2 + [("32", "2")] * 2


def test_operations(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    out = tmp_path / "operations.csv"
    sizes = ["--masked", "8", "16", "--vocabulary", "50", "--width", "64", "--rows", "2", "--tokens", "8"]
    script("operations").main([*sizes, *TURNS, "--no-memory", "--out", str(out)])
    rows = rows_of(out)
    over_vocabulary = {"linear_cross_entropy", "gumbel_mixture", "gumbel_noise"}
    assert {row["operation"] for row in rows} == {*over_vocabulary, "self_attention", "dropout"}
    assert [row["masked"] for row in rows[:4]] == ["8", "8", "16", "16"]


def test_child_of_operations_measures_the_same_case(script: Callable[[str], ModuleType]) -> None:
    operations = script("operations")
    args = operations.arguments(["--masked", "8", "16", "--width", "64", "--tokens", "8", "16"])
    for name in operations.OPERATIONS:
        size = operations.sizes_of(args, name)[1]
        child = operations.arguments(operations.child_arguments(args, name, size, "naive"))
        assert operations.sizes_of(child, name) == [size]
        assert child.memory_of == "naive" and child.only == [name]


def test_loading(script: Callable[[str], ModuleType], data: str, tmp_path: Path) -> None:
    out = tmp_path / "loading.csv"
    options = ["--tokens", "16", "--rows", "4", "--batches", "2", "--turns", "1", "--workers", "0", "1"]
    loaders = ["--loaders", "fairseq_masking K=4", "stock_fairseq"]
    script("loading").main(["--data", data, *options, *loaders, "--out", str(out)])
    rows = rows_of(out)
    assert len(rows) == 4 and all(float(row["rows_per_s"]) > 0 for row in rows)


def test_profiling(script: Callable[[str], ModuleType], data: str, tmp_path: Path) -> None:
    out, trace = tmp_path / "profile.csv", tmp_path / "trace.json.gz"
    options = ["--steps", "2", "--warm-up", "1", "--trace", str(trace), "--out", str(out)]
    script("profiling").main(["--data", data, *TOY, *options])
    rows = rows_of(out)
    for system in ("fairseq_masking", "stock_fairseq"):
        share = {row["group"]: float(row["share_of_step"]) for row in rows if row["system"] == system}
        for group in ("matmul", "attention", "dropout", "loss", "optimizer", "data loading"):
            assert share[group] > 0, (system, group)
        assert 0.95 < sum(share.values()) < 1.05, system
    assert trace.stat().st_size > 0


def test_huggingface(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    if importlib.util.find_spec("transformers") is None:  # importing it here is what the script must do
        pytest.skip("transformers is not installed")
    out = tmp_path / "huggingface.csv"
    systems = ["fairseq_masking", "bert", "roberta", "bert+sparse", "fairseq_masking+modern", "modernbert"]
    options = ["--vocabulary", "100", "--no-memory", "--systems", *systems]
    script("huggingface").main([*TOY, *options, *TURNS, "--out", str(out)])
    rows = {row["system"]: int(row["parameters"]) for row in rows_of(out)}
    assert list(rows) == systems
    assert rows["fairseq_masking+modern"] == rows["modernbert"]
    assert rows["fairseq_masking"] == pytest.approx(rows["bert"], rel=0.01)


def test_a_head_of_masked_positions_gives_the_loss_of_all(script: Callable[[str], ModuleType]) -> None:
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    huggingface, losses = script("huggingface"), []
    for system in ("bert", "bert+sparse"):
        loop = huggingface.Loop(system, huggingface.Setting("", "tiny", 16, 4, "fp32", "cpu"), 100)
        loop.model.eval()
        losses.append(loop.loss())
    torch.testing.assert_close(*losses)


def test_huggingface_says_what_is_missing(
    script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SystemExit, match="pip install transformers"):
        script("huggingface").main([*TOY, "--systems", "bert", "--vocabulary", "100"])


def gpu_sh(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable}
    command = ["bash", str(BENCH / "gpu.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)


def test_gpu_sh_refuses_what_it_does_not_know() -> None:
    for arguments, expected in (
        (["--fast"], "unknown option --fast"),
        (["--only", "step,dance"], "unknown part dance"),
        (["--budget"], "--budget needs a value"),
        (["--budget", "soon"], "a number of seconds"),
        (["--data", "/nonexistent"], "no prepared corpus in /nonexistent"),
    ):
        finished = gpu_sh(*arguments)
        assert finished.returncode == 2 and expected in finished.stderr
    assert "--budget SECONDS" in gpu_sh("--help").stdout


def test_gpu_sh_runs_what_fits_and_lists_the_rest(data: str, tmp_path: Path) -> None:
    # loading is expected to take 30 s, agreement 240.
    finished = gpu_sh(
        "--dry", "--only", "agreement,loading", "--budget", "140", "--data", data, "--out", str(tmp_path)
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "skipped for want of time: agreement" in finished.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.log", "loading_gpu.csv"]
    assert (tmp_path / "gpu.log").read_text() == finished.stdout


def test_gpu_sh_without_a_gpu_says_so(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    finished = gpu_sh("--only", "loading", "--out", str(tmp_path))
    assert finished.returncode == 1 and "no CUDA GPU" in finished.stderr


def test_gpu_sh_writes_a_csv_for_each_benchmark() -> None:
    text = (BENCH / "gpu.sh").read_text()
    written = {part.split('"')[0].split()[0] for part in text.split('"$out/')[1:]}
    parts = set(text.split('order="')[1].split('"')[0].split(",")) - {"tests", "train"}
    assert len(written - {"gpu.log"}) == len(parts), (written, parts)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_gpu_sh_passes_shellcheck() -> None:
    subprocess.run(["shellcheck", str(BENCH / "gpu.sh")], check=True)


def test_optimizers_go_on_where_they_stopped(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rate of the grid at the first seed, then the best one at the others; finished runs stay."""
    optimizers = script("optimizers")
    trained = []

    def train(folder: Path, options: list[str]) -> None:
        trained.append(folder.name)
        folder.mkdir(parents=True)
        rate = float(options[options.index("--lr") + 1])
        loss = 7 + abs(rate - 0.02) + ("muon" not in options)  # Muon's best is in the middle, Adam's at the end
        lines = [{"num_updates": "20", "loss": "9", "wps": "5"}]
        lines += [
            {"valid_num_updates": str(n), "valid_loss": str(x), "valid_ppl": "9"} for n, x in ((10, 9), (20, loss))
        ]
        (folder / "train.log").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        (folder / "finished").touch()

    monkeypatch.setattr(optimizers, "train_once", train)
    out = tmp_path / "optimizers.csv"
    command = ["--data", "data", "--folder", str(tmp_path), "--updates", "20", "--seeds", "1", "2", "--out", str(out)]
    optimizers.main(command)
    assert len(trained) == 12 + 4
    assert trained[12:] == ["bert_adam_0.002_2", "bert_muon_0.02_2", "modern_adam_0.002_2", "modern_muon_0.02_2"]
    optimizers.main(command)
    optimizers.main([*command, "--table"])
    assert len(trained) == 16
    rows = [row for row in rows_of(out) if row["best_of_grid"] == "True"]
    assert [(row["optimizer"], row["seed"], row["updates_to_9.0"], row["updates_to_7.0"]) for row in rows[:4]] == [
        ("adam", "1", "10", ""), ("adam", "2", "10", ""), ("muon", "1", "10", "20"), ("muon", "2", "10", "20")
    ]  # fmt: skip


def test_mask_laws_train_for_as_many_updates_and_stay(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every law at every seed with the options of its row; means and spreads of what validation ends with."""
    laws = script("mask_laws")
    trained: dict[str, list[str]] = {}

    def train(folder: Path, options: list[str]) -> None:
        trained[folder.name] = options
        folder.mkdir(parents=True, exist_ok=True)
        seed = float(options[options.index("--seed") + 1])
        lines = [{"num_updates": "20", "loss": "9", "wps": "5"}]
        lines += [{"valid_num_updates": "20", "valid_loss_mask": str(7 + seed), "valid_accuracy": "9"}]
        (folder / "train.log").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        (folder / "finished").touch()

    monkeypatch.setattr(laws, "train_once", train)
    monkeypatch.setattr(laws, "prepare", lambda corpus, folder, words: folder)
    monkeypatch.setattr(laws, "count_updates", lambda data, epochs: epochs)
    out = tmp_path / "mask_laws.csv"
    laws.main(["--corpus", "text", "--folder", str(tmp_path), "--seeds", "1", "2", "--out", str(out)])
    assert len(trained) == 2 * len(laws.LAWS)
    assert {options[options.index("--max-update") + 1] for options in trained.values()} == {"20"}
    assert trained["rate_0.3_to_0.15_2"][-4:] == ["--mask-prob", "0.3", "--mask-prob-end", "0.15"]
    assert [(row["law"], row["loss_mask"]) for row in rows_of(out)][:2] == [("plain", "8.0"), ("plain", "9.0")]
    more = ["--corpus", "text", "--folder", str(tmp_path / "more"), "--seeds", "1", "--out", str(out)]
    laws.main([*more, "--words", "1075", "--laws", "PMI"])
    assert [row["words"] for row in rows_of(out)] == [*["215"] * 2 * len(laws.LAWS), "1075"], "what was there stays"
