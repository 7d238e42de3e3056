"""ModernBERT in and out: its states, logits and loss are ours, and come back to the bit; the unfit are refused."""

import json

import pytest
import torch
import torch.nn.functional as F
from foreign_models import own_checkpoint, padded_rows, save_checkpoint, shake, task_of, write_wordpiece
from safetensors.torch import load_file

from fairseq_masking.checkpoints.hugging_face import export_checkpoint, export_form
from fairseq_masking.checkpoints.init_from import initialize
from fairseq_masking.checkpoints.loading import read_checkpoint
from fairseq_masking.checkpoints.sources import read_source
from fairseq_masking.cli import inspect
from fairseq_masking.data import load_dictionary
from fairseq_masking.errors import UserError
from fairseq_masking.methods.amos.model import AmosConfig, AmosModel
from fairseq_masking.methods.mlm.model import MLMConfig, MLMModel
from fairseq_masking.methods.three_ml.model import ThreeMLConfig, ThreeMLModel

CONFIG = {  # values that no default hides
    "hidden_size": 32,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
    "norm_eps": 1e-3,
    "local_attention": 6,
    "pad_token_id": 1,
    "global_attn_every_n_layers": 2,
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 500.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    },
}
SHAPE = {
    "encoder_layers": 5,
    "encoder_ffn_embed_dim": 48,
    "max_positions": 24,
    "position_encoding": "rotary",
    "rope_theta": 500.0,
    "rope_local_theta": 50.0,
    "norm": "layer_norm",
    "skip_first_norm": True,
    "feed_forward": "glu",
    "no_attention_bias": True,
    "no_feed_forward_bias": True,
    "no_norm_bias": True,
    "no_head_bias": True,
    "attention_window": 6,
    "global_attention_every": 2,
    "normalize_before": True,
    "layer_norm_eps": 1e-3,
}
HEAD = {"pooler_norm": True, "pooler_activation_fn": "gelu"}
BIASED = dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), True)


def write_modernbert(transformers, folder, **more):
    folder.mkdir(exist_ok=True)
    specials = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 2)
    config = transformers.ModernBertConfig(vocab_size=write_wordpiece(folder), **{**CONFIG, **specials, **more})
    model = shake(transformers.ModernBertForMaskedLM(config))
    model.save_pretrained(folder)
    return model


def imported(folder, data):
    source = read_source(folder)
    task = task_of(load_dictionary(data / "dict.txt"), data)
    model = MLMModel.build_model(MLMConfig(**source.shape(), dropout=0.0, attention_dropout=0.0), task).eval()
    initialize(model, source, task)
    return model, source


def ids_there(data, folder):
    """Our ids -> theirs."""
    vocab = (folder / "vocab.txt").read_text(encoding="utf-8").split()
    names = {"<s>": "[CLS]", "<pad>": "[PAD]", "</s>": "[SEP]", "<unk>": "[UNK]", "<mask>": "[MASK]"}
    return torch.tensor(
        [vocab.index(names.get(symbol, symbol)) for symbol in load_dictionary(data / "dict.txt").symbols]
    )


@pytest.mark.parametrize("more", [{}, BIASED], ids=["as it is", "with biases"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_states_logits_and_loss_are_those_of_transformers(transformers, tmp_path, data, implementation, more):
    write_modernbert(transformers, tmp_path, **more)
    theirs = transformers.ModernBertForMaskedLM.from_pretrained(tmp_path, attn_implementation=implementation).eval()
    model, source = imported(tmp_path, data)
    assert source.shape().items() >= {**SHAPE, **{key: not more for key in SHAPE if key.startswith("no_")}}.items()
    there = ids_there(data, tmp_path)
    for lengths in ((17, 9, 2), (17, 17)):  # padded and unpadded
        tokens, visible = padded_rows(len(there), 1, lengths)
        with torch.no_grad():
            labels = there[tokens].masked_fill(~visible, -100)
            expected = theirs(there[tokens], visible.long(), labels=labels, output_hidden_states=True)
            logits = model(tokens)[0]
            states = model(tokens, features_only=True, return_all_hiddens=True)[1]["inner_states"]
        assert len(states) == len(expected.hidden_states) == 6
        for ours, other in zip(states, expected.hidden_states, strict=True):
            torch.testing.assert_close(ours[visible], other[visible], rtol=0, atol=1e-5)
        torch.testing.assert_close(logits[visible], expected.logits[visible][:, there], rtol=0, atol=2e-5)
        loss = F.cross_entropy(logits[visible], tokens[visible])
        torch.testing.assert_close(loss, expected.loss, rtol=0, atol=1e-5)


def test_a_config_of_transformers_4_means_the_same(transformers, tmp_path):
    write_modernbert(transformers, tmp_path)
    expected = read_source(tmp_path).shape()
    config = json.loads((tmp_path / "config.json").read_text())
    del config["layer_types"], config["rope_parameters"]
    config |= {"global_attn_every_n_layers": 2, "global_rope_theta": 500.0, "local_rope_theta": 50.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_source(tmp_path).shape() == expected


@pytest.mark.parametrize(
    "options",
    [{}, {key: False for key in SHAPE if key.startswith("no_")}, {"attention_window": 0, "global_attention_every": 3}],
)
def test_back_again_it_is_the_same_to_the_bit(transformers, tmp_path, data, options):
    model = own_checkpoint(MLMModel, MLMConfig, tmp_path / "c.pt", data, **{**SHAPE, **options})
    assert export_checkpoint(tmp_path / "c.pt", tmp_path / "out") == ("ModernBertForMaskedLM", False)
    theirs, report = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
    tokens, visible = padded_rows(model.encoder.config.vocab_size, 1)
    with torch.no_grad():
        actual = theirs(tokens, visible.long()).logits
        torch.testing.assert_close(actual[visible], model(tokens)[0][visible], rtol=0, atol=2e-5)
    before, after = read_source(tmp_path / "c.pt"), read_source(tmp_path / "out")
    assert after.shape() == before.shape()
    assert after.state.keys() == model.state_dict().keys()
    assert all(torch.equal(after.state[key], value) for key, value in model.state_dict().items())
    theirs.save_pretrained(tmp_path / "again")  # by transformers itself
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(
        torch.equal(again[key], value) for key, value in load_file(tmp_path / "out" / "model.safetensors").items()
    )


def test_in_and_out_again_its_weights_are_the_same_to_the_bit(transformers, tmp_path, data):
    """With its rows in the order of our dictionary."""
    write_modernbert(transformers, tmp_path / "in", **BIASED)
    model, source = imported(tmp_path / "in", data)
    save_checkpoint(tmp_path / "c.pt", model, MLMConfig(**source.shape()), data)
    export_checkpoint(tmp_path / "c.pt", tmp_path / "out")
    before, after = (load_file(tmp_path / place / "model.safetensors") for place in ("in", "out"))
    there = ids_there(data, tmp_path / "in")
    for key in ("model.embeddings.tok_embeddings.weight", "decoder.bias"):
        before[key] = before[key][there]
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_scores_of_a_fine_tuned_model(transformers, tmp_path, data, pooling):
    options = {**SHAPE, **HEAD, "pooling": pooling}
    model = own_checkpoint(MLMModel, MLMConfig, tmp_path / "c.pt", data, head=3, **options)
    assert export_checkpoint(tmp_path / "c.pt", tmp_path / "out") == ("ModernBertForSequenceClassification", False)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    tokens, visible = padded_rows(model.encoder.config.vocab_size, 1)
    with torch.no_grad():
        expected = model(tokens, features_only=True, classification_head_name="topic")[0]
        actual = theirs(tokens, visible.long()).logits
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    state = read_source(tmp_path / "out").state
    assert (
        "classification_heads.sentence_classification_head.layer_norm.weight" in state and "lm_head.bias" not in state
    )


def test_the_head_of_token_scores_is_nobodys(transformers, tmp_path, data):
    write_modernbert(transformers, tmp_path)
    scores = transformers.ModernBertForTokenClassification.from_pretrained(tmp_path)
    scores.save_pretrained(tmp_path)
    source = read_source(tmp_path)
    assert {"head.dense.weight", "head.norm.weight", "classifier.weight"} <= set(source.dropped)
    assert all(key.startswith("encoder.") for key in source.state)


@pytest.mark.parametrize(
    ("model_class", "config_class", "options"),
    [(AmosModel, AmosConfig, {"generator_layers": [1, 2]}), (ThreeMLModel, ThreeMLConfig, {})],
)
def test_encoders_without_an_mlm_head_load_bare(transformers, tmp_path, data, model_class, config_class, options):
    options = {**SHAPE, "relative_position": "none", **options}
    model = own_checkpoint(model_class, config_class, tmp_path / "c.pt", data, **options)
    written = export_checkpoint(tmp_path / "c.pt", tmp_path / "out")
    assert written == export_form(read_source(tmp_path / "c.pt")) == ("ModernBertModel", False)
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    tokens, visible = padded_rows(model.encoder.config.vocab_size, 1)
    with torch.no_grad():
        actual = theirs(tokens, visible.long()).last_hidden_state
        expected = model(tokens, features_only=True)[0]
    torch.testing.assert_close(actual[visible], expected[visible], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"norm": "rms_norm"}, "norm=rms_norm"),
        ({"feed_forward": "mlp"}, "feed_forward=mlp"),
        ({"position_encoding": "learned"}, "position_encoding=learned"),
        ({"head": 3}, "pooler_norm=False"),
    ],
)
def test_what_modernbert_has_no_place_for_is_named(tmp_path, data, options, named):
    own_checkpoint(MLMModel, MLMConfig, tmp_path / "c.pt", data, **{**SHAPE, **options})
    with pytest.raises(UserError, match=f"no place for {named}"):
        export_checkpoint(tmp_path / "c.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    uses = dict(inspect._uses(read_source(tmp_path / "c.pt"), read_checkpoint(tmp_path / "c.pt")))
    assert "position_encoding rotary" in dict(inspect._shape(read_source(tmp_path / "c.pt")))[""] or "learned" in named
    assert f"no place for {named}" in uses["no export"] and "--init-from" in uses["use"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_parameters"),
        ({"layer_types": ["sliding_attention", *["full_attention"] * 4]}, "layer_types"),
        ({"classifier_activation": "relu"}, "classifier_activation"),
        ({"model_type": "deberta-v2"}, "taken are bert, .*modernbert"),
    ],
)
def test_what_our_encoder_has_no_options_for_is_named(transformers, tmp_path, change, named):
    write_modernbert(transformers, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=named):
        read_source(tmp_path)
