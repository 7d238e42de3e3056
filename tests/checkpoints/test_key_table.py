"""One table of names: fairseq's RoBERTa computes the same from it, all families go there and back."""

from argparse import Namespace

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.models.roberta import RobertaModel
from small_batches import dictionary, pretraining_task

from fairseq_masking.checkpoints.init_from import initialize
from fairseq_masking.checkpoints.key_table import FAMILIES, from_ours, to_ours
from fairseq_masking.checkpoints.sources import read_source
from fairseq_masking.errors import UserError
from fairseq_masking.methods.mlm.model import MLMConfig, MLMModel

PRE_LN = ("roberta-prelayernorm", "modernbert", "fairseq", "fairseq_masking")
RELATIVE = ("mpnet", "amos_release", "fairseq_masking")


def roberta(normalize_before):
    args = Namespace(
        encoder_layers=3,
        encoder_embed_dim=32,
        encoder_ffn_embed_dim=48,
        encoder_attention_heads=4,
        max_positions=20,
        encoder_normalize_before=normalize_before,
        encoder_layerdrop=0,
    )
    torch.manual_seed(1)
    model = RobertaModel.build_model(args, Namespace(source_dictionary=dictionary())).eval()
    # Biases and LayerNorms start at 0 and 1, where a dropped or swapped one would go unseen.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.register_classification_head("topic", num_classes=3)
    return model.eval()


def ours(normalize_before=False, **options):
    cfg = MLMConfig(
        encoder_layers=3,
        encoder_embed_dim=32,
        encoder_ffn_embed_dim=48,
        encoder_attention_heads=4,
        max_positions=20,
        normalize_before=normalize_before,
        **options,
    )
    torch.manual_seed(2)
    model = MLMModel.build_model(cfg, pretraining_task())
    model.register_classification_head("topic", num_classes=3)
    return model.eval()


@pytest.mark.parametrize("normalize_before", [False, True])
def test_same_hidden_states_logits_and_scores(normalize_before):
    theirs, own = roberta(normalize_before), ours(normalize_before)
    own.load_state_dict(to_ours(theirs.state_dict(), FAMILIES["fairseq"]).state, strict=True)
    tokens = torch.randint(4, 44, (3, 17), generator=torch.Generator().manual_seed(2))
    lengths = [17, 9, 1]
    for row, length in enumerate(lengths):
        tokens[row, length:] = 1
    with torch.no_grad():
        expected, extra = theirs(tokens, features_only=True, return_all_hiddens=True)
        actual, own_extra = own(tokens, features_only=True, return_all_hiddens=True)
        logits, own_logits = theirs(tokens)[0], own(tokens)[0]
        scores = theirs(tokens, features_only=True, classification_head_name="topic")[0]
        own_scores = own(tokens, features_only=True, classification_head_name="topic")[0]
    inner = [state.transpose(0, 1) for state in extra["inner_states"]]
    assert len(inner) == len(own_extra["inner_states"]) == 4
    for row, length in enumerate(lengths):
        torch.testing.assert_close(actual[row, :length], expected[row, :length], rtol=0, atol=1e-5)
        torch.testing.assert_close(own_logits[row, :length], logits[row, :length], rtol=0, atol=1e-5)
        for state, own_state in zip(inner[:-1], own_extra["inner_states"][:-1], strict=True):
            torch.testing.assert_close(own_state[row, :length], state[row, :length], rtol=0, atol=1e-5)
    torch.testing.assert_close(own_scores, scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("normalize_before", [False, True])
@pytest.mark.parametrize("form", ["args", "cfg"])  # until fairseq 0.10, and since
def test_a_checkpoint_file_of_fairseqs_roberta(tmp_path, normalize_before, form):
    """Read with its dict.txt beside it, it starts a model of ours whose dictionary has another order."""
    theirs, present, wanted = roberta(normalize_before), dictionary(), Dictionary()
    for symbol in (*present.symbols[4:-1][::-1], "<mask>"):
        wanted.add_symbol(symbol)
    options = {"encoder_attention_heads": 4, "activation_fn": "gelu", "data": "/gone"}
    told = {"args": Namespace(**options)} if form == "args" else {"args": None, "cfg": {"model": options}}
    torch.save({**told, "model": theirs.state_dict()}, tmp_path / "roberta.pt")
    present.save(str(tmp_path / "dict.txt"))
    source = read_source(tmp_path / "roberta.pt")
    task = pretraining_task(wanted)
    own = MLMModel.build_model(MLMConfig(**source.shape()), task).eval()
    initialize(own, source, task)
    tokens = torch.arange(4, 34).view(2, 15)
    there = torch.tensor([present.index(symbol) for symbol in wanted.symbols])
    with torch.no_grad():
        torch.testing.assert_close(own(tokens)[0], theirs(there[tokens])[0][..., there], rtol=0, atol=1e-5)


@pytest.mark.parametrize("normalize_before", [False, True])
def test_round_trip_of_fairseqs_roberta_is_exact(normalize_before):
    theirs = roberta(normalize_before).state_dict()
    back = from_ours(to_ours(theirs, FAMILIES["fairseq"]).state, FAMILIES["fairseq"])
    theirs = {key: value for key, value in theirs.items() if not key.endswith("version")}
    theirs["encoder.sentence_encoder.embed_positions.weight"][:2] = 0  # rows that no token uses
    assert theirs.keys() == back.keys()
    assert all(torch.equal(theirs[key], back[key]) for key in theirs)


def test_checkpoints_of_2019_are_read():
    """``decoder`` for the encoder, one fused projection, another name of the embedding's LayerNorm."""
    state = roberta(False).state_dict()
    old = {}
    for key, value in state.items():
        if ".q_proj." in key:
            parts = [state[key.replace("q_proj", name)] for name in ("q_proj", "k_proj", "v_proj")]
            old[key.replace("q_proj.", "in_proj_")] = torch.cat(parts)
        elif ".k_proj." not in key and ".v_proj." not in key:
            old[key.replace("layernorm_embedding", "emb_layer_norm")] = value
    old = {key.replace("encoder.", "decoder.", 1): value for key, value in old.items()}
    expected = to_ours(state, FAMILIES["fairseq"]).state
    found = to_ours(old, FAMILIES["fairseq"]).state
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_goes_there_and_back_bit_by_bit(name):
    options = {"normalize_before": name in PRE_LN, "relative_position": "t5" if name in RELATIVE else "none"}
    if name == "fairseq":
        options["relative_position"] = "none"
    if name == "modernbert":
        options |= {"position_encoding": "rotary", "skip_first_norm": True, "feed_forward": "glu"}
    state = ours(**options).state_dict()
    heads = {
        "amos_release": ("encoder.", "classification_heads."),
        "electra": ("encoder.",),
        "modernbert": ("encoder.", "lm_head."),
    }.get(name, ("encoder.", "lm_head.", "classification_heads."))
    state = {key: value for key, value in state.items() if key.startswith(heads)}
    theirs = from_ours(state, FAMILIES[name])
    back = to_ours(theirs, FAMILIES[name], head="topic")
    assert not back.dropped
    assert back.state.keys() == state.keys()
    assert all(torch.equal(back.state[key], state[key]) for key in state)


def test_what_does_not_fit_is_named():
    family = FAMILIES["bert"]
    state = from_ours(ours().state_dict(), family)
    with pytest.raises(UserError, match=r"not parameters of BERT.*: bert\.encoder\.layer\.0\.adapter\.weight$"):
        to_ours({**state, "bert.encoder.layer.0.adapter.weight": torch.zeros(1)}, family)
    with pytest.raises(
        UserError, match=r"without one of query, key and value of .*layers\.1\.self_attn\.in_proj\.bias"
    ):
        to_ours({k: v for k, v in state.items() if k != "bert.encoder.layer.1.attention.self.key.bias"}, family)
    with pytest.raises(UserError, match=r"cls\.predictions\.decoder\.weight not tied"):
        to_ours({**state, "cls.predictions.decoder.weight": torch.zeros(45, 32)}, family)
    with pytest.raises(UserError, match=r"RoBERTa has no place for encoder\.relative_position\.weight"):
        from_ours(ours(relative_position="t5").state_dict(), FAMILIES["roberta"])
    with pytest.raises(
        UserError, match=r"BERT has no place for encoder\.layer_norm\.weight, encoder\.layer_norm\.bias"
    ):
        from_ours(ours(normalize_before=True).state_dict(), family)


def test_a_pooler_without_scores_is_dropped_and_named():
    state = from_ours(ours().state_dict(), FAMILIES["bert"])
    del state["classifier.weight"], state["classifier.bias"]
    converted = to_ours(state, FAMILIES["bert"])
    assert sorted(converted.dropped) == ["bert.pooler.dense.bias", "bert.pooler.dense.weight"]
    assert not any(key.startswith("classification_heads.") for key in converted.state)
