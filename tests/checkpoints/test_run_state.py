"""What a checkpoint keeps of its run: which dictionary it was trained with, and how long --patience has waited."""

import json
import re
import shutil

import pytest
import torch
from commands import train_here
from fairseq import checkpoint_utils, tasks

from fairseq_masking.checkpoints.loading import RUN_STATE, read_checkpoint
from fairseq_masking.checkpoints.sources import read_source
from fairseq_masking.corpus.dictionary import identity
from fairseq_masking.errors import UserError
from fairseq_masking.finetuning.tasks import corpus_of

PATIENCE = (
    "--lr",
    0,
    "--validate-interval-updates",
    2,
    "--save-interval-updates",
    2,
    "--patience",
    3,
    "--max-update",
    40,
)
OTHER = "trained with another dictionary"


@pytest.fixture(scope="module")
def trained(small_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert train_here(small_data, folder, *PATIENCE) == 0
    return folder


@pytest.fixture(scope="module")
def other(small_data, tmp_path_factory):
    """The same corpus with the same number of symbols, but others."""
    folder = tmp_path_factory.mktemp("other") / "data"
    shutil.copytree(small_data, folder)
    (folder / "dict.txt").write_text((folder / "dict.txt").read_text().replace("word", "Word"))
    return folder


def without_run_state(path, to, data):
    state = torch.load(path, weights_only=True)
    assert set(state["task_state"].pop(RUN_STATE)) == {"patience", "trained_on"}
    state["cfg"]["task"]["data"] = str(data)
    torch.save(state, to)
    return read_checkpoint(to)


@pytest.mark.parametrize("start", ["resume", "--finetune-from-model"])
def test_training_refuses_another_dictionary_of_the_same_size(start, trained, other, tmp_path, capsys):
    last = trained / "checkpoint_last.pt"
    if start == "resume":
        shutil.copy(last, tmp_path)
    more = ["--max-update", 40] if start == "resume" else [start, last]
    assert train_here(other, tmp_path, *more) == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert OTHER in line and last.name in line and str(other) in line and "--init-from" in line


def test_tools_refuse_it(trained, other, tmp_path):
    last = trained / "checkpoint_last.pt"
    with pytest.raises(UserError, match=OTHER):
        read_checkpoint(last).build(other)
    with pytest.raises(UserError, match=OTHER):  # what fairseq-validate calls
        checkpoint_utils.load_model_ensemble_and_task([str(last)], arg_overrides={"data": str(other)})
    shutil.copy(last, tmp_path)
    shutil.copy(other / "dict.txt", tmp_path)  # which would name the embedding's rows
    with pytest.raises(UserError, match=OTHER):
        read_source(tmp_path / "checkpoint_last.pt")
    state = torch.load(last, weights_only=True)
    state["cfg"]["task"]["data"] = str(other)
    torch.save(state, tmp_path / "moved.pt")
    with pytest.raises(UserError, match=OTHER):
        corpus_of(tmp_path / "moved.pt")


def test_one_of_before_is_compared_with_its_corpus_where_that_is_there(trained, small_data, other, tmp_path, caplog):
    symbols = read_checkpoint(trained / "checkpoint_last.pt").build()[1].source_dictionary.symbols
    old = without_run_state(trained / "checkpoint_last.pt", tmp_path / "old.pt", other)
    old.check_trained_on(symbols, small_data)
    assert [record.levelname for record in caplog.records if OTHER in record.message] == ["WARNING"]
    with caplog.at_level("INFO"):
        gone = without_run_state(trained / "checkpoint_last.pt", tmp_path / "old.pt", tmp_path / "gone")
        gone.check_trained_on(symbols, other)
    assert "only sizes are compared" in caplog.text


def test_all_shards_have_one_dictionary(trained, small_data, other):
    task = read_checkpoint(trained / "checkpoint_last.pt").cfg.task
    task.data = f"{small_data}:{small_data}"
    tasks.setup_task(task)
    task.data = f"{small_data}:{other}"
    with pytest.raises(UserError, match=f"{other} has another dictionary than {small_data}"):
        tasks.setup_task(task)


def test_a_tokeniser_is_its_files_its_options_and_the_steps_before_it(tmp_path, small_data):
    manifest = {
        "settings": {"text": {"lowercase": False, "split_sentences": True}, "tokenizer": {"kind": "bert"}},
        "tokenizer": {"kind": "bert", "symbols": 1, "files": {"vocab.txt": "00"}},
        **{
            "inputs": {},
            "counts": {},
            "outputs": {},
            "versions": {},
            "dictionary_sha256": "",
            "shard": None,
            "num_shards": 1,
            "format": 1,
        },
    }

    def tokenizer():
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        return identity(["a"], tmp_path)["tokenizer"]

    first = tokenizer()
    manifest["settings"]["text"] = {}  # a step that is not made, or that a newer version knows, changes nothing
    assert tokenizer() == first
    found = {first}
    for part, change in ((manifest["settings"]["text"], {"lowercase": True}),
                         (manifest["settings"]["tokenizer"], {"lowercase": True}),
                         (manifest["tokenizer"]["files"], {"vocab.txt": "01"})):  # fmt: skip
        part.update(change)
        found.add(tokenizer())
    assert len(found) == 4
    assert set(identity(["a"], small_data)) == {"dictionary"}  # no manifest


def test_patience_goes_on_where_it_was(trained, small_data, tmp_path):
    names = [name.name for name in trained.glob("checkpoint_*_*.pt")]
    at = sorted(int(re.findall(r"_(\d+)\.pt", name)[0]) for name in names)
    assert at[-1] < 40, "the run has to stop by itself"
    (before,) = trained.glob(f"checkpoint_*_{at[-2]}.pt")
    shutil.copy(before, tmp_path / "checkpoint_last.pt")
    assert train_here(small_data, tmp_path, *PATIENCE) == 0
    assert read_checkpoint(tmp_path / "checkpoint_last.pt").num_updates == at[-1]
