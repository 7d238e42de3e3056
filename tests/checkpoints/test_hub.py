"""from_pretrained: text in, features and fillings out, from a checkpoint that fairseq-train wrote."""

import pytest
import torch
from commands import assert_ok, prepare_sentences

from fairseq_masking.errors import UserError
from fairseq_masking.methods.mlm.model import MLMModel


@pytest.fixture(scope="module")
def hub(tmp_path_factory, run_train):
    folder = tmp_path_factory.mktemp("hub")
    data = prepare_sentences(folder)
    finished = run_train(data, folder / "checkpoints", "--max-update", "3", "--sample-break-mode", "eos")
    assert_ok(finished)
    return MLMModel.from_pretrained(folder / "checkpoints")


def test_text_goes_there_and_back(hub):
    tokens = hub.encode("The cat saw a red <mask> on the mat.")
    assert tokens[0] == hub.dictionary.bos() and tokens[-1] == hub.dictionary.eos()
    assert (tokens == hub.dictionary.index("<mask>")).sum() == 1
    assert hub.dictionary.unk() not in tokens, "the text must be lower-cased as the training text was"
    assert hub.decode(hub.encode("A dog ate the red hat.")) == "a dog ate the red hat."


def test_features_are_the_encoders(hub):
    tokens = hub.encode("The cat sat.")
    features = hub.extract_features(tokens)
    assert features.shape == (1, len(tokens), 128)
    with torch.no_grad():
        assert torch.equal(features, hub.model.encoder(tokens[None])[-1])
    layers = hub.extract_features(tokens, return_all_hiddens=True)
    assert len(layers) == 3 and torch.equal(layers[-1], features)
    with pytest.raises(UserError, match="512 positions"):
        hub.extract_features(torch.full((513,), 5))


def test_fillings_are_the_likeliest_tokens(hub):
    text = "The <mask> sat on the mat."
    fillings = hub.fill_mask(text, topk=4)
    tokens = hub.encode(text)
    with torch.no_grad():
        logits = hub.model(tokens[None])[0][0, int((tokens == hub.dictionary.index("<mask>")).nonzero())]
    expected = logits.softmax(-1).sort(descending=True).values[:4]
    torch.testing.assert_close(torch.tensor([filling.probability for filling in fillings]), expected)
    best = hub.tokenizer.surface(hub.dictionary[int(logits.argmax())])
    assert fillings[0].token == best and best.strip() in fillings[0].text
    assert all(filling.text.endswith("sat on the mat.") for filling in fillings)
    for wrong in ("no mask", "<mask> and <mask>"):
        with pytest.raises(UserError, match="one <mask>"):
            hub.fill_mask(wrong)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no such checkpoint: .*checkpoint_best\.pt"):
        MLMModel.from_pretrained(tmp_path)
