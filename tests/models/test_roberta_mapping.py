"""Our encoder and fairseq's RoBERTa compute the same from the same weights (dropout off)."""

from argparse import Namespace

import pytest
import torch
from fairseq.data import Dictionary
from fairseq.models.roberta import RobertaModel
from small_batches import pretraining_task

from fairseq_masking.models.mlm import MLMConfig, MLMModel
from fairseq_masking.models.roberta_mapping import from_roberta, to_roberta


@pytest.fixture(scope="module")
def dictionary():
    dictionary = Dictionary()
    for index in range(60):
        dictionary.add_symbol(f"w{index}")
    dictionary.add_symbol("<mask>")
    return dictionary


def roberta(dictionary, normalize_before):
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
    model = RobertaModel.build_model(args, Namespace(source_dictionary=dictionary)).eval()
    # Biases and LayerNorms start at 0 and 1, where a dropped or swapped one would go unseen.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.register_classification_head("topic", num_classes=3)
    return model.eval()


def ours(dictionary, normalize_before):
    cfg = MLMConfig(
        encoder_layers=3,
        encoder_embed_dim=32,
        encoder_ffn_embed_dim=48,
        encoder_attention_heads=4,
        max_positions=20,
        normalize_before=normalize_before,
    )
    model = MLMModel.build_model(cfg, pretraining_task(dictionary))
    model.register_classification_head("topic", num_classes=3)
    return model.eval()


@pytest.mark.parametrize("normalize_before", [False, True])
def test_same_hidden_states_logits_and_scores(dictionary, normalize_before):
    theirs, own = roberta(dictionary, normalize_before), ours(dictionary, normalize_before)
    own.load_state_dict(from_roberta(theirs.state_dict()), strict=True)
    tokens = torch.randint(4, 64, (3, 17), generator=torch.Generator().manual_seed(2))
    lengths = [17, 9, 1]
    for row, length in enumerate(lengths):
        tokens[row, length:] = dictionary.pad()
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
def test_round_trip_is_exact(dictionary, normalize_before):
    theirs = roberta(dictionary, normalize_before).state_dict()
    back = to_roberta(from_roberta(theirs))
    theirs = {key: value for key, value in theirs.items() if not key.endswith("version")}
    theirs["encoder.sentence_encoder.embed_positions.weight"][:2] = 0  # rows that no token uses
    assert theirs.keys() == back.keys()
    assert all(torch.equal(theirs[key], back[key]) for key in theirs)


def test_unknown_keys_are_named():
    with pytest.raises(KeyError, match=r"decoder\.x"):
        from_roberta({"decoder.x": torch.zeros(1)})
    with pytest.raises(KeyError, match="relative_position"):
        to_roberta({"encoder.relative_position.weight": torch.zeros(1)})
