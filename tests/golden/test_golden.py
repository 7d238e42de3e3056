"""What was frozen before the package was rearranged is the same today (``make.py`` writes it anew).

Bits of losses and weights are compared on machines like the one they were made on, else losses to 1e-5.
"""

import shutil
from pathlib import Path
from typing import Any

import frozen_corpus
import frozen_exports
import frozen_masks
import frozen_options
import frozen_training
import pytest
import torch
from commands import PACKAGE, assert_ok, run_command
from fairseq.tasks.sentence_prediction import SentencePredictionTask
from frozen_files import DATA, machine, read, tensor_digest

CHECKPOINTS = DATA / "checkpoints"
ARITHMETIC = ("torch", "capability", "cpu", "family")


def same_arithmetic(frozen: dict[str, Any]) -> bool:
    """Sums of floats are the same to the bit."""
    return all(frozen["machine"][name] == machine()[name] for name in ARITHMETIC)


def assert_same_steps(actual: dict[str, Any], expected: dict[str, Any], exact: bool) -> None:
    assert actual["sizes"] == expected["sizes"]
    if exact:
        assert actual == expected
    losses = [[float.fromhex(loss) for loss in steps["losses"]] for steps in (actual, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)  # AVX-512 sums differ from AVX2's by up to 3e-5 in 20 steps


# Prepared data


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


def check_prepared(folder: Path, name: str) -> None:
    assert frozen_corpus.record(folder) == read("corpus")[name]


@pytest.mark.parametrize("name", [*frozen_corpus.PREPARED, *frozen_corpus.FINETUNING])
def test_preparing_gives_the_same_bytes(name: str, prepared: Path) -> None:
    if name == "gpt2" and not frozen_corpus.GPT2.is_dir():
        pytest.skip(f"no GPT-2 BPE in {frozen_corpus.GPT2}")
    made_with, here = read("runs")["machine"]["sentencepiece"], machine()["sentencepiece"]
    if name in frozen_corpus.TRAINS_TOKENIZER and made_with != here:
        pytest.skip(f"SentencePiece {here} may train another model than {made_with}")
    check_prepared(frozen_corpus.prepare(name, prepared / name), name)
    if name in ("gpt2", "wordpiece"):
        assert frozen_masks.masks_of_words(prepared / name) == read("masks_of_words")[name]


@pytest.mark.parametrize("name", ["shards", "wordpiece", *frozen_corpus.FINETUNING])
def test_two_workers_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    check_prepared(frozen_corpus.prepare(name, tmp_path / "data", "--workers", "2"), name)


@pytest.mark.parametrize("name", ["corpus", *frozen_corpus.FINETUNING])
def test_what_was_prepared_before_is_whole(name: str) -> None:
    check_prepared(DATA / name, name)


# Masks


def test_masks_are_the_same() -> None:
    actual, expected = frozen_masks.masks(), read("masks")
    assert actual.keys() == expected.keys()
    assert {case: actual[case] for case in actual if actual[case] != expected[case]} == {}


# Training


@pytest.mark.parametrize("name", frozen_training.RUNS)
def test_losses_of_twenty_steps(name: str, tmp_path: Path) -> None:
    frozen = read("runs")
    steps = frozen_training.steps(frozen_training.arguments(name, tmp_path, "--no-save"))
    assert len(steps.losses) >= 20
    assert_same_steps(steps.frozen(), frozen["runs"][name], same_arithmetic(frozen))


def test_the_command_trains_the_same(tmp_path: Path) -> None:
    """In a process of its own, which imports the package as fairseq does with --user-dir."""
    frozen = read("runs")
    if not same_arithmetic(frozen):
        pytest.skip("the weights' bits are of another machine")
    arguments = frozen_training.arguments("fully_explored", tmp_path, "--user-dir", str(PACKAGE))
    assert_ok(run_command(["fairseq-train", *arguments], cwd=DATA, server="plain"))
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)["model"]
    assert tensor_digest(state) == frozen["runs"]["fully_explored"]["weights"]


@pytest.fixture
def rows_in_random_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """As fine-tuning batched its rows when these losses were written: what finetuning/pools.py changes is left out."""
    method = SentencePredictionTask.get_batch_iterator.__wrapped__
    monkeypatch.setattr(SentencePredictionTask, "get_batch_iterator", method)


@pytest.mark.usefixtures("rows_in_random_order")
@pytest.mark.parametrize("name", [*frozen_training.CHECKPOINTS, *frozen_training.TUNED])
def test_checkpoints_of_before(name: str, tmp_path: Path) -> None:
    frozen = read("checkpoints")
    expected, exact = frozen["checkpoints"][name], same_arithmetic(frozen)
    tuned = name in frozen_training.TUNED
    path, data = CHECKPOINTS / f"{name}.pt", name if tuned else "corpus"
    validation = pytest.approx(float.fromhex(expected["validation"]), rel=0 if exact else 1e-5, abs=0)

    with frozen_training.loaded(path, data) as (model, cfg):
        assert frozen_training.validation_loss(model, cfg) == validation
    if not tuned:
        hub = frozen_training.hub_of(name, path)
        assert frozen_training.validation_loss(hub.model, hub.cfg) == validation
        fillings = [[text, token, pytest.approx(p, rel=1e-5)] for text, token, p in expected["fillings"]]
        assert list(map(list, frozen_training.fillings(name, path))) == fillings

    shutil.copyfile(path, tmp_path / "checkpoint_last.pt")
    resumed = frozen_training.resumed_steps(name, tmp_path)
    assert len(resumed.losses) == frozen_training.NUM_RESUMED
    assert_same_steps(resumed.frozen(), expected["resumed"], exact)
    written = frozen_training.structure(tmp_path / "checkpoint_last.pt")
    assert written["keys"] == expected["structure"]["keys"]
    assert written["model"] == expected["structure"]["model"]
    assert frozen_training.structure(path) == expected["structure"]


@pytest.mark.usefixtures("rows_in_random_order")
@pytest.mark.parametrize("name", frozen_training.TUNED)
def test_tuning_starts_the_same(name: str, tmp_path: Path) -> None:
    """From another checkpoint's encoder, with a head of its own."""
    frozen = read("checkpoints")
    expected = frozen["checkpoints"][name]
    first = frozen_training.first_steps(name, tmp_path)
    assert_same_steps(first.frozen(), expected["first"], same_arithmetic(frozen))
    assert frozen_training.structure(tmp_path / "checkpoint_last.pt") == expected["structure"]


# Exported folders


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[hf]'")


@pytest.mark.parametrize("name", frozen_exports.EXPORTED)
def test_exports_are_the_same(name: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="safetensors is not installed: pip install '.[hf]'")
    folder = frozen_exports.export(name, tmp_path / name)
    assert frozen_exports.record(folder) == read("exports")["folders"][name]


@pytest.mark.parametrize("kept", [False, True], ids=["exported now", "exported before"])
@pytest.mark.parametrize("name", frozen_exports.WITH_LOGITS)
def test_exports_compute_the_same(name: str, kept: bool, tmp_path: Path, transformers) -> None:
    if kept and name != frozen_exports.KEPT:
        pytest.skip("this folder is not kept")
    folder = frozen_exports.kept(tmp_path) if kept else frozen_exports.export(name, tmp_path / name)
    logits = frozen_exports.logits(folder, trust_remote_code=frozen_exports.WITH_LOGITS[name])
    for row, expected in zip(logits, read("exports")["logits"][name], strict=True):
        torch.testing.assert_close(torch.tensor(row), torch.tensor(expected), rtol=1e-5, atol=1e-6)


# Options


@pytest.mark.parametrize("part", read("options"))
def test_options_and_names_are_the_same(part: str) -> None:
    actual, expected = frozen_options.snapshot()[part], read("options")[part]
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            assert actual[name] == value, name
    assert actual == expected
