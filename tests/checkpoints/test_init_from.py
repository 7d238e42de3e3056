"""--init-from: the source gives the shape, explicit options may not contradict, a resume needs no source."""

import pickle
import re
import shutil
from argparse import Namespace

import finetuning_data
import pytest
import torch
from commands import PACKAGE, assert_one_line_error, run_command
from fairseq import options
from fairseq.dataclass.initialize import add_defaults, hydra_init
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from foreign_models import SHAPE, own_checkpoint, prepare, shake, write_wordpiece
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from fairseq_masking.checkpoints import init_from as initialization
from fairseq_masking.checkpoints.init_from import resolve_shape
from fairseq_masking.checkpoints.sources import read_source
from fairseq_masking.errors import UserError
from fairseq_masking.methods.mlm.model import MLMConfig, MLMModel

SOURCE = {"normalize_before": True, "activation_fn": "relu", "layer_norm_eps": 1e-6}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("corpus"), "--vocab-size", "90")


@pytest.fixture(scope="module")
def source(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("source") / "source.pt"
    own_checkpoint(MLMModel, MLMConfig, path, data, **SOURCE)
    return path


@pytest.fixture
def small_bert(tmp_path):
    transformers = pytest.importorskip("transformers", reason="pip install '.[hf]'")
    folder = tmp_path / "bert"
    folder.mkdir()
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = transformers.BertConfig(vocab_size=write_wordpiece(folder), **sizes)
    shake(transformers.BertForMaskedLM(config)).save_pretrained(folder)
    return folder


@pytest.fixture
def from_command_line(monkeypatch, tmp_path):
    def build(arch, *more):
        monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
        fixed = ["DATA", "--task", "masked_pretraining", "--arch", arch, "--criterion", "mlm", "--optimizer"]
        fixed += ["adam", "--max-update", "1", "--save-dir", str(tmp_path / "run")]
        argv = [*fixed, *(str(part) for part in more)]
        return convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), argv))

    return build


@pytest.fixture
def from_hydra(monkeypatch, tmp_path):
    def build(arch, *more):
        fixed = ["task=masked_pretraining", "task.data=DATA", f"model={arch}", "criterion=mlm"]
        fixed += ["optimizer=adam", f"checkpoint.save_dir={tmp_path / 'run'}"]
        argv = [*fixed, *(str(part) for part in more)]
        monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
        hydra_init("config")
        GlobalHydra.instance().clear()
        with initialize_config_module("fairseq.config", version_base="1.1"):
            cfg = compose("config", overrides=argv, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        add_defaults(cfg)
        return cfg

    return build


def assert_resolved(cfg):
    for name in ("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "max_positions"):
        assert cfg.model[name] == SHAPE[name]
    assert cfg.model.encoder_attention_heads == 4 and cfg.model.layer_norm_eps == 1e-6
    assert cfg.model.normalize_before is True and str(cfg.model.activation_fn) == "relu"
    assert str(cfg.model.relative_position) == "none"


@pytest.mark.parametrize("arch", ["mlm_base", "mlm", "amos_tiny"])
def test_archs_defaults_give_way(from_command_line, from_hydra, source, arch):
    relative = ("--relative-position", "none") if arch == "amos_tiny" else ()
    cfg = from_command_line(arch, "--init-from", source)
    resolve_shape(cfg)
    assert_resolved(cfg)
    cfg = from_hydra(arch, f"model.init_from={source}")
    resolve_shape(cfg)
    assert_resolved(cfg)
    cfg = from_command_line(arch, "--init-from", source, "--encoder-layers", "2", *relative)
    resolve_shape(cfg)
    assert_resolved(cfg)


# The second and third are what the arch and the option's default say: it counts that they were typed.
CONTRADICTIONS = {
    ("mlm_tiny", "encoder_layers", "3"): "2",
    ("mlm_base", "encoder_layers", "12"): "2",
    ("mlm_base", "activation_fn", "gelu"): "relu",
    ("mlm_base", "max_positions", "512"): "24",
    ("mlm_base", "relative_position", "t5"): "none",
}


def test_a_modern_source_brings_its_kind(from_command_line, from_hydra, tmp_path, data, caplog):
    """Also of heads, unless others are asked for; what the arch says otherwise is logged, what is typed an error."""
    path = tmp_path / "modern.pt"
    kind = {"position_encoding": "rotary", "feed_forward": "glu", "skip_first_norm": True, "normalize_before": True}
    own_checkpoint(MLMModel, MLMConfig, path, data, **kind, attention_window=6, pooling="mean")
    for cfg in (from_command_line("mlm_base", "--init-from", path), from_hydra("mlm_base", f"model.init_from={path}")):
        with caplog.at_level("INFO"):
            resolve_shape(cfg)
        assert {name: cfg.model[name] for name in kind} == kind and cfg.model.attention_window == 6
        heads = ("pooler_norm", "pooler_activation_fn", "pooling")
        assert [str(cfg.model[name]) for name in heads] == ["True", "gelu", "mean"]
        assert "not of its arch mlm_base: encoder_layers 2 for 12" in caplog.text
        caplog.clear()
    cfg = from_command_line("mlm_base", "--init-from", path, "--pooler-activation-fn", "relu")
    resolve_shape(cfg)
    assert cfg.model.pooler_activation_fn == "relu"
    for cfg in (
        from_command_line("mlm_base", "--init-from", path, "--position-encoding", "learned"),
        from_hydra("mlm_base", f"model.init_from={path}", "model.position_encoding=learned"),
    ):
        with pytest.raises(UserError, match=told_of("position_encoding", "learned", "rotary")):
            resolve_shape(cfg)


def told_of(option, value, there):
    return re.escape(f"--{option.replace('_', '-')} {value} contradicts ") + f".*, whose encoder has {there}: leave"


@pytest.mark.parametrize("arch, option, value", CONTRADICTIONS)
def test_contradictions_are_one_line(from_command_line, source, arch, option, value):
    told = told_of(option, value, CONTRADICTIONS[arch, option, value])
    with pytest.raises(UserError, match=told):
        resolve_shape(from_command_line(arch, "--init-from", source, "--" + option.replace("_", "-"), value))


@pytest.mark.parametrize(
    "option, value, there", [("encoder_layers", "12", "2"), ("normalize_before", "false", "True")]
)
def test_so_they_are_under_hydra(from_hydra, source, option, value, there):
    with pytest.raises(UserError, match=told_of(option, value.title(), there)):
        resolve_shape(from_hydra("mlm_base", f"model.init_from={source}", f"model.{option}={value}"))


def test_a_resumed_run_asks_its_own_checkpoint(from_command_line, data, tmp_path):
    """The source is gone; the shape, and what contradicts it, comes from the checkpoint."""
    (tmp_path / "run").mkdir()
    own_checkpoint(MLMModel, MLMConfig, tmp_path / "run" / "checkpoint_last.pt", data, **SOURCE)
    cfg = from_command_line("mlm_base", "--init-from", "/gone.pt")
    resolve_shape(cfg)
    assert_resolved(cfg)
    with pytest.raises(UserError, match=r"--encoder-layers 12 contradicts .*checkpoint_last"):
        resolve_shape(from_command_line("mlm_base", "--init-from", "/gone.pt", "--encoder-layers", "12"))
    with pytest.raises(UserError, match=r"no such checkpoint or model folder: /gone\.pt"):
        resolve_shape(from_command_line("mlm_base", "--init-from", "/gone.pt", "--save-dir", "/new"))


def test_the_source_is_read_once(from_command_line, source, monkeypatch):
    """For its shape; the weights of a fresh run come from the same reading, a resumed one takes none."""
    read, taken = [], []
    monkeypatch.setattr(initialization, "read_source", lambda path: read.append(path) or read_source(path))
    monkeypatch.setattr(initialization, "initialize", lambda model, source, task: taken.append(source.path))
    cfg = from_command_line("mlm_base", "--init-from", source)
    trainer = Namespace(cfg=cfg, get_model=lambda: None, task=None)
    for extra_state in ({"epoch": 1}, None):
        resolve_shape(cfg)
        loaded = initialization._initialize_fresh_runs(lambda _, found=extra_state: found, trainer)
        assert loaded is extra_state
    assert read == [str(source)] * 2 and taken == [source]


def test_a_task_that_builds_the_model_with_its_own_positions_gets_the_sources(from_command_line, source):
    """Stock sentence_prediction writes task.max_positions, 512 by default, over the model's."""
    task = ("--task", "sentence_prediction", "--criterion", "sentence_prediction", "--num-classes", "2")
    cfg = from_command_line("mlm_base", "--init-from", source, *task)
    resolve_shape(cfg)
    assert cfg.task.max_positions == cfg.model.max_positions == SHAPE["max_positions"] != 512


def test_without_it_nothing_changes(from_command_line):
    cfg = from_command_line("mlm_tiny")
    before = str(cfg)
    resolve_shape(cfg)
    assert str(cfg) == before


@pytest.mark.parametrize(
    "more, told",
    [
        (("--finetune-from-model", "x.pt"), "exclude each other"),
        (("--ddp-backend", "fully_sharded"), "fully_sharded: start with pytorch_ddp"),
    ],
)
def test_what_does_not_go_together(from_command_line, source, more, told):
    with pytest.raises(UserError, match=told):
        resolve_shape(from_command_line("mlm_tiny", "--init-from", source, *more))


def test_a_fresh_start_takes_the_weights_and_a_resume_needs_no_source(run_train, data, source, tmp_path):
    moved = tmp_path / "source.pt"
    shutil.copyfile(source, moved)
    start = ("--arch", "mlm_base", "--init-from", moved, "--tokens-per-sample", "24", "--save-interval-updates", "1")
    finished = run_train(data, tmp_path / "run", *start, "--max-update", "1", "--lr", "1e-9")
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "encoder, lm_head taken from" in finished.stderr + finished.stdout
    saved = torch.load(tmp_path / "run" / "checkpoint_last.pt", weights_only=True)
    assert saved["cfg"]["model"]["encoder_layers"] == 2 and saved["cfg"]["model"]["activation_fn"] == "relu"
    expected = torch.load(source, weights_only=True)["model"]
    assert saved["model"].keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(saved["model"][key], value, rtol=0, atol=1e-6)
    moved.unlink()
    finished = run_train(data, tmp_path / "run", *start, "--max-update", "2")
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "taken from" not in finished.stderr + finished.stdout
    again = torch.load(tmp_path / "run" / "checkpoint_last.pt", weights_only=True)
    assert again["optimizer_history"][-1]["num_updates"] == 2
    checkpoint = tmp_path / "run" / "checkpoint_last.pt"
    assert MLMModel.from_pretrained(checkpoint).model.cfg.max_positions == 24, "evaluation needs no source"


def test_ranks_start_from_the_same_weights(run_train, data, source, tmp_path):
    """legacy_ddp broadcasts none: a rank that began elsewhere would add gradients of another model."""
    start = ("--arch", "mlm_base", "--init-from", source, "--tokens-per-sample", "24", "--max-update", "2")
    one = run_train(data, tmp_path / "one", *start, "--update-freq", "2")
    ranks = ("--distributed-world-size", "2", "--ddp-backend", "legacy_ddp")
    two = run_train(data, tmp_path / "two", *start, *ranks)
    assert one.returncode == two.returncode == 0, two.stderr[-3000:]
    alone, together = (
        torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True)["model"] for name in ("one", "two")
    )
    before = torch.load(source, weights_only=True)["model"]
    assert not torch.equal(alone["lm_head.dense.weight"], before["lm_head.dense.weight"])
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value, rtol=0, atol=2e-6, msg=key)


def test_a_source_that_would_run_code_is_one_line(run_train, data, tmp_path):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"model": print}))
    finished = run_train(data, tmp_path / "run", "--init-from", tmp_path / "evil.pt")
    assert_one_line_error(finished, "evil.pt: ")
    assert not (tmp_path / "run").exists()


def test_fine_tuning_starts_from_any_source(tmp_path, small_bert):
    """From a model of Hugging Face's: shape and encoder are its own, the head is new, and that is said."""
    corpus = prepare(tmp_path, "--tokenizer-from", small_bert)
    task = finetuning_data.write_sst2(tmp_path / "SST-2", rows=16)
    rows = finetuning_data.prepare("SST-2", task, corpus, tmp_path / "rows", "--max-length", "24")
    finished = run_command(
        ["fairseq-train", rows, "--user-dir", PACKAGE, "--save-dir", tmp_path / "run", "--task",
         "sentence_prediction", "--criterion", "sentence_prediction", "--arch", "mlm_base", "--init-from",
         small_bert, "--num-classes", "2", "--init-token", "0", "--separator-token", "2", "--optimizer",
         "adam", "--lr", "0.0", "--batch-size", "8", "--max-update", "1", "--required-batch-size-multiple",
         "1", "--num-workers", "0", "--cpu"]
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-3000:]
    told = finished.stdout + finished.stderr
    assert "classification_heads initialised at random" in told and "encoder taken from" in told
    saved = torch.load(tmp_path / "run" / "checkpoint_last.pt", weights_only=True)
    assert saved["cfg"]["model"]["encoder_layers"] == 2 and saved["cfg"]["model"]["encoder_embed_dim"] == 32
    expected = read_source(small_bert).state
    layers = [key for key in expected if key.startswith("encoder.layers.")]
    assert layers and all(torch.equal(saved["model"][key], expected[key]) for key in layers)
