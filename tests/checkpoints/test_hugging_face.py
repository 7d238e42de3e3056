"""Checkpoints of all methods become folders that transformers loads: the same states, logits and scores."""

import json
import random
import shutil
import sys

import pytest
import torch
from commands import assert_ok, run_command, status_of
from foreign_models import LINES, SHAPE, own_checkpoint, padded_rows, prepare
from safetensors.torch import load_file

from fairseq_masking.checkpoints.hub import HubInterface
from fairseq_masking.checkpoints.hugging_face import export_checkpoint, load_with_transformers
from fairseq_masking.checkpoints.sources import read_source
from fairseq_masking.cli.main import main
from fairseq_masking.corpus.manifest import load_normalizer, load_tokenizer
from fairseq_masking.data import load_dictionary
from fairseq_masking.errors import UserError
from fairseq_masking.finetuning.squad.criterion import SpanHead
from fairseq_masking.methods.amos.model import AmosConfig, AmosModel
from fairseq_masking.methods.map_net.model import MapNetConfig, MapNetModel
from fairseq_masking.methods.mlm.model import MLMConfig, MLMModel
from fairseq_masking.methods.three_ml.model import ThreeMLConfig, ThreeMLModel
from fairseq_masking.modules.relative_position import BUCKETINGS
from fairseq_masking.tokenizers.hugging_face_files import import_tokenizer

ARCHITECTURES = {
    "post-LN": ({}, "RobertaForMaskedLM"),
    "pre-LN": ({"normalize_before": True}, "RobertaPreLayerNormForMaskedLM"),
    "t5": ({"relative_position": "t5"}, "MPNetForMaskedLM"),
    "amos": ({"relative_position": "amos", "relative_position_buckets": 64}, "FairseqMaskingForMaskedLM"),
    "t5 pre-LN": ({"relative_position": "t5", "normalize_before": True}, "FairseqMaskingForMaskedLM"),
    "t5 of 16": ({"relative_position": "t5", "relative_position_buckets": 16}, "FairseqMaskingForMaskedLM"),
    "relu": ({"activation_fn": "relu"}, "FairseqMaskingForMaskedLM"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("corpus"), "--vocab-size", "90")


def rows_of(model):
    vocab_size = model.encoder.config.vocab_size
    return padded_rows(vocab_size, 1)


def load(transformers, auto_class, folder, **options):
    model, report = getattr(transformers, auto_class).from_pretrained(
        folder, output_loading_info=True, trust_remote_code=True, **options
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    return model.eval()


def assert_close(actual, expected, visible, atol=1e-5):
    torch.testing.assert_close(actual[visible], expected[visible], rtol=0, atol=atol)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_states_and_logits_of_every_architecture(transformers, tmp_path, data, name):
    options, architecture = ARCHITECTURES[name]
    # 1e-3: another value than both sides' defaults
    model = own_checkpoint(MLMModel, MLMConfig, tmp_path / "c.pt", data, layer_norm_eps=1e-3, **options)
    written = export_checkpoint(tmp_path / "c.pt", tmp_path / "out")
    assert written == (architecture, architecture.startswith("FairseqMasking"))
    assert (tmp_path / "out" / "modeling_fairseq_masking.py").exists() == written.remote_code
    theirs = load(transformers, "AutoModelForMaskedLM", tmp_path / "out")
    bare = transformers.AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True).eval()
    tokens, visible = rows_of(model)
    # What is left between them in fp32 is rounding: in fp64 next to nothing is.
    for dtype, atol in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        for each in (model, theirs, bare):
            each.to(dtype)
        with torch.no_grad():
            expected = model(tokens)[0]
            states = model(tokens, features_only=True, return_all_hiddens=True)[1]["inner_states"]
            actual = theirs(input_ids=tokens, attention_mask=visible.long(), output_hidden_states=True)
            last = bare(input_ids=tokens, attention_mask=visible.long()).last_hidden_state
        assert_close(actual.logits, expected, visible, atol)
        assert len(actual.hidden_states) == 3
        for ours, other in zip(states, actual.hidden_states, strict=True):
            assert_close(other, ours, visible, atol)
        assert_close(last, states[-1], visible, atol)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_back_again_it_is_the_same_to_the_bit(tmp_path, data, name):
    options, _ = ARCHITECTURES[name]
    model = own_checkpoint(MLMModel, MLMConfig, tmp_path / "c.pt", data, **options)
    export_checkpoint(tmp_path / "c.pt", tmp_path / "out")
    before, after = read_source(tmp_path / "c.pt"), read_source(tmp_path / "out")
    assert after.shape() == before.shape()
    assert after.state.keys() == model.state_dict().keys()
    assert all(torch.equal(after.state[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize_before": True},
        {"relative_position": "t5"},
        {"relative_position": "amos"},
        {"pooler_activation_fn": "relu"},
    ],
)
@pytest.mark.parametrize("num_classes", [3, 1])
def test_scores_of_a_fine_tuned_model(transformers, tmp_path, data, options, num_classes):
    model = own_checkpoint(MLMModel, MLMConfig, tmp_path / "c.pt", data, head=num_classes, **options)
    labels = data / "label"
    labels.mkdir(exist_ok=True)
    (labels / "dict.txt").write_text("red 3\ngreen 2\nblue 1\n", encoding="utf-8")
    export_checkpoint(tmp_path / "c.pt", tmp_path / "out")
    theirs = load(transformers, "AutoModelForSequenceClassification", tmp_path / "out")
    tokens, visible = rows_of(model)
    with torch.no_grad():
        expected = model(tokens, features_only=True, classification_head_name="topic")[0]
        actual = theirs(input_ids=tokens, attention_mask=visible.long()).logits
    assert actual.shape == (3, num_classes)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    names = {0: "red", 1: "green", 2: "blue"} if num_classes == 3 else {0: "LABEL_0"}
    assert theirs.config.id2label == names
    assert theirs.config.problem_type == ("regression" if num_classes == 1 else "single_label_classification")


def test_more_classes_than_names_have_numbers(transformers, tmp_path, data):
    own_checkpoint(MLMModel, MLMConfig, tmp_path / "c.pt", data, head=3)
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "label").mkdir(exist_ok=True)
    (tmp_path / "data" / "label" / "dict.txt").write_text("red 3\ngreen 2\n", encoding="utf-8")
    export_checkpoint(tmp_path / "c.pt", tmp_path / "out", data=tmp_path / "data")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


def test_a_link_to_an_empty_folder_is_filled(tmp_path, data):
    own_checkpoint(MLMModel, MLMConfig, tmp_path / "c.pt", data)
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    export_checkpoint(tmp_path / "c.pt", tmp_path / "link")
    assert (tmp_path / "there" / "config.json").is_file() and (tmp_path / "link").is_symlink()


def test_a_flipped_bit_of_the_weights_is_found(tmp_path, data):
    own_checkpoint(MLMModel, MLMConfig, tmp_path / "c.pt", data)
    export_checkpoint(tmp_path / "c.pt", tmp_path / "out")
    path, rng = tmp_path / "out" / "model.safetensors", random.Random(0)
    whole = path.read_bytes()
    key = whole.index(b"sha256")  # the one name that could become another's, which nothing asks for
    for _ in range(100):
        flipped = bytearray(whole)
        flipped[(key + 6 + rng.randrange(len(whole) - 6)) % len(whole)] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(UserError, match=r"model\.safetensors is"):
            read_source(tmp_path / "out")
    path.write_bytes(whole)
    read_source(tmp_path / "out")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_flipped_bit_of_what_lies_beside_the_weights_is_found(name, tmp_path, data):
    own_checkpoint(MLMModel, MLMConfig, tmp_path / "c.pt", data)
    export_checkpoint(tmp_path / "c.pt", tmp_path / "out")
    path = tmp_path / "out" / name
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("1", "3", 1), encoding="utf-8")
    readers = [read_source, lambda folder: load_with_transformers(folder, "AutoModel", "encoder")]
    for read in [*readers, *([lambda folder: import_tokenizer(folder, tmp_path)] if name == "tokenizer.json" else [])]:
        with pytest.raises(UserError, match=rf"{name} is not as it was exported"):
            read(tmp_path / "out")
    path.write_text(text, encoding="utf-8")
    read_source(tmp_path / "out")


@pytest.mark.parametrize("options", [{}, {"relative_position": "amos"}])
def test_the_span_head_of_squad(transformers, tmp_path, data, options):
    model = own_checkpoint(MLMModel, MLMConfig, tmp_path / "c.pt", data, head=2, **options)
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    head = SpanHead(SHAPE["encoder_embed_dim"])
    kept = {key: value for key, value in state["model"].items() if "topic" not in key}
    spans = {f"classification_heads.span.{key}": value for key, value in head.state_dict().items()}
    torch.save({**state, "model": {**kept, **spans}}, tmp_path / "c.pt")
    export_checkpoint(tmp_path / "c.pt", tmp_path / "out")
    theirs = load(transformers, "AutoModelForQuestionAnswering", tmp_path / "out")
    tokens, visible = rows_of(model)
    with torch.no_grad():
        expected = head(model(tokens, features_only=True)[0])
        actual = theirs(input_ids=tokens, attention_mask=visible.long())
    assert_close(actual.start_logits, expected[..., 0], visible)
    assert_close(actual.end_logits, expected[..., 1], visible)


@pytest.mark.parametrize("relative_position", ["t5", "amos", "none"])
def test_amos_discriminator_with_its_head(transformers, tmp_path, data, relative_position):
    options = {"generator_layers": [1, 2], "max_update": 10, "seed": 1}
    model = own_checkpoint(
        AmosModel, AmosConfig, tmp_path / "c.pt", data, relative_position=relative_position, **options
    )
    written = export_checkpoint(tmp_path / "c.pt", tmp_path / "out")
    assert written == ("FairseqMaskingForPreTraining", True)
    assert not any("generator" in key for key in load_file(tmp_path / "out" / "model.safetensors"))
    theirs = load(transformers, "AutoModelForPreTraining", tmp_path / "out")
    tokens, visible = rows_of(model)
    with torch.no_grad():
        expected = model.detection_head(model(tokens, features_only=True)[0]).squeeze(-1)
        actual = theirs(input_ids=tokens, attention_mask=visible.long(), labels=visible.long() * 101 - 100)
    assert_close(actual.logits, expected, visible)
    torch.testing.assert_close(actual.loss, torch.nn.functional.softplus(-expected[visible]).mean())


def test_3mls_head_is_no_head_of_the_encoder(transformers, tmp_path, data):
    model = own_checkpoint(ThreeMLModel, ThreeMLConfig, tmp_path / "c.pt", data)
    assert export_checkpoint(tmp_path / "c.pt", tmp_path / "out").architecture == "RobertaModel"
    theirs = load(transformers, "AutoModel", tmp_path / "out", add_pooling_layer=False)
    tokens, visible = rows_of(model)
    with torch.no_grad():
        expected = model(tokens, features_only=True)[0]
        actual = theirs(input_ids=tokens, attention_mask=visible.long()).last_hidden_state
    assert_close(actual, expected, visible)


def test_map_nets_encoder_and_head_without_its_proposal_network(transformers, tmp_path, data):
    proposal = {"proposal_layers": 1, "proposal_embed_dim": 16, "proposal_ffn_embed_dim": 16}
    model = own_checkpoint(MapNetModel, MapNetConfig, tmp_path / "c.pt", data, proposal_attention_heads=1, **proposal)
    assert export_checkpoint(tmp_path / "c.pt", tmp_path / "out").architecture == "RobertaForMaskedLM"
    theirs = load(transformers, "AutoModelForMaskedLM", tmp_path / "out")
    tokens, visible = rows_of(model)
    with torch.no_grad():
        actual = theirs(input_ids=tokens, attention_mask=visible.long()).logits
        assert_close(actual, model(tokens)[0], visible)


def test_the_tokeniser_of_a_corpus_in_shards_is_the_first_ones(tmp_path, data):
    own_checkpoint(MLMModel, MLMConfig, tmp_path / "c.pt", data)
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    state["cfg"]["task"]["data"] = f"{data}:{tmp_path / 'shard1'}"
    torch.save(state, tmp_path / "c.pt")
    export_checkpoint(tmp_path / "c.pt", tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_the_modelling_file_needs_nothing_of_ours(tmp_path, data):
    own_checkpoint(MLMModel, MLMConfig, tmp_path / "c.pt", data, relative_position="amos")
    export_checkpoint(tmp_path / "c.pt", tmp_path / "out")
    text = (tmp_path / "out" / "modeling_fairseq_masking.py").read_text(encoding="utf-8")
    imported = [line.split()[1] for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert {name.split(".")[0] for name in imported} == {"math", "collections", "typing", "torch", "transformers"}


@pytest.mark.parametrize("kind", BUCKETINGS)
@pytest.mark.parametrize("num_buckets, max_distance", [(32, 128), (64, 128), (16, 40)])
def test_the_modelling_files_buckets(transformers, kind, num_buckets, max_distance):
    from fairseq_masking.checkpoints.modeling_fairseq_masking import FairseqMaskingConfig, relative_buckets

    length = 300
    options = {"relative_position_buckets": num_buckets, "relative_position_max_distance": max_distance}
    config = FairseqMaskingConfig(relative_position=kind, max_position_embeddings=length, **options)
    places = torch.arange(length)
    expected = BUCKETINGS[kind](
        places[None, :] - places[:, None], num_buckets=num_buckets, max_distance=max_distance, max_positions=length
    )
    assert torch.equal(relative_buckets(length, config, torch.device("cpu")), expected)


def test_without_this_package_it_loads(tmp_path, data):
    own_checkpoint(MLMModel, MLMConfig, tmp_path / "c.pt", data, relative_position="amos")
    export_checkpoint(tmp_path / "c.pt", tmp_path / "out")
    program = (
        "from transformers import AutoTokenizer, pipeline; import sys;"
        "fill = pipeline('fill-mask', sys.argv[1], trust_remote_code=True);"
        "assert len(fill('the <mask> sat')) == 5 and 'fairseq_masking' not in sys.modules"
    )
    assert_ok(run_command([sys.executable, "-c", program, tmp_path / "out"], cwd=tmp_path))


def test_fill_mask_with_their_pipeline(transformers, tmp_path, data):
    """The checkpoint and the text that go in are the same: so are the fillings that come out."""
    model = own_checkpoint(MLMModel, MLMConfig, tmp_path / "c.pt", data)
    export_checkpoint(tmp_path / "c.pt", tmp_path / "out")
    pipeline = transformers.pipeline("fill-mask", model=str(tmp_path / "out"))
    found = pipeline("The cat <mask> on the mat.", top_k=3)
    tokens = pipeline.tokenizer("The cat <mask> on the mat.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(tokens)[0][0, int((tokens[0] == pipeline.tokenizer.mask_token_id).nonzero())]
    expected = logits.softmax(-1).topk(3)
    assert [entry["token"] for entry in found] == expected.indices.tolist()
    torch.testing.assert_close(torch.tensor([entry["score"] for entry in found]), expected.values)


@pytest.mark.parametrize(
    "options, lost",
    [
        (("--moses-normalize", "--moses-tokenize", "--lowercase"), "--moses-normalize and --moses-tokenize"),
        (("--moses-tokenize",), "--moses-tokenize"),
        (("--lowercase", "--split-sentences"), None),
    ],
)
def test_what_a_tokeniser_of_theirs_leaves_out_is_said(transformers, tmp_path, caplog, options, lost):
    """And what the line advises gives the ids of the training again."""
    data = prepare(tmp_path, "--vocab-size", "90", *options)
    own_checkpoint(MLMModel, MLMConfig, tmp_path / "c.pt", data)
    with caplog.at_level("WARNING", "fairseq_masking.checkpoints"):
        export_checkpoint(tmp_path / "c.pt", tmp_path / "out")
    said = [line for line in caplog.messages if "was prepared with" in line]
    encode = HubInterface(
        torch.nn.Linear(1, 1), load_dictionary(data / "dict.txt"), load_tokenizer(data), load_normalizer(data)
    ).encode
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    raw, ours = theirs(LINES)["input_ids"], [encode(line).tolist() for line in LINES]
    assert (raw == ours) is (lost is None)
    if lost is None:
        assert not said
    else:
        assert len(said) == 1 and "\n" not in said[0] and f"{data} was prepared with {lost}, which" in said[0]
        assert f"load_normalizer({str(data)!r})" in said[0]
        assert theirs([load_normalizer(data)(line) for line in LINES])["input_ids"] == ours


def test_the_command_says_what_it_did_and_what_is_wrong(tmp_path, data, capsys):
    own_checkpoint(MLMModel, MLMConfig, tmp_path / "c.pt", data)

    def run(*arguments):
        status = status_of(lambda: main(["export", *map(str, arguments)]))
        out, err = capsys.readouterr()
        assert err.count("\n") == (status != 0)
        return status, out + err

    good = ("--checkpoint", tmp_path / "c.pt", "--out", tmp_path / "out")
    status, text = run(*good)
    assert status == 0 and "RobertaForMaskedLM; AutoModel.from_pretrained(" in text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json", "model.safetensors", "sentencepiece.model", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    status, text = run(*good)
    assert status == 1 and "is not empty" in text
    elsewhere = ("--checkpoint", tmp_path / "c.pt", "--out", tmp_path / "other")
    for more, part in (
        (("--data", tmp_path / "none"), "no such data folder"),
        (("--head", "topic"), "no classification heads"),
    ):
        status, text = run(*elsewhere, *more)
        assert status == 1 and part in text
    other = prepare(tmp_path, "--vocab-size", "80", name="smaller")
    status, text = run(*elsewhere, "--data", other)
    assert status == 1 and "80 symbols, the checkpoint 90 rows" in text
    status, text = run("--checkpoint", tmp_path / "out", "--out", tmp_path / "other")
    assert status == 1 and "no checkpoint of fairseq_masking" in text
    assert not (tmp_path / "other").exists(), "nothing half-written is left"
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["vocab_size"] == 90
