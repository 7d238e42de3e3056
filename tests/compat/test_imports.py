"""What importing the package does to a process, and leaves undone."""

import importlib
import sys

import pytest
from commands import assert_ok, run_command

PROGRAM = """
import sys
import fairseq_masking, torch
from fairseq.criterions import sentence_prediction
from fairseq.tasks import audio_classification
from fairseq_masking.optim.adamw import AdamW
weight = torch.nn.Parameter(torch.ones(1))
for optimizer in (AdamW([weight]), torch.optim.SGD([weight])):
    weight.grad = torch.ones(1)
    optimizer.zero_grad()
AdamW([weight]).step()
unused = {name for name in sys.modules if name.split(".")[0] in ("sklearn", "scipy") or name == "torch._dynamo"}
assert not unused, unused
assert sentence_prediction.f1_score([1, 0, 1], [1, 1, 1]) == 0.8
assert sentence_prediction.pearsonr([1, 2, 3], [2, 4, 6])[0] > 0.999
assert audio_classification.sklearn_metrics.accuracy_score([1, 0], [1, 1]) == 0.5
import sklearn
assert sklearn.__version__
assert sys.excepthook.__fairseq_masking__  # here: torch.distributed sets one, too, when a test starts a process group
"""


def test_what_nothing_uses_is_imported_when_something_does():
    assert_ok(run_command([sys.executable, "-c", PROGRAM]))


@pytest.mark.parametrize(
    ("name", "function", "now"),
    [
        ("export.sources", "read_source", "checkpoints.sources"),
        ("preparation.tokenizers", "load_tokenizer", "corpus.manifest"),
        ("preparation.normalization", "load_normalizer", "corpus.manifest"),
    ],
)
def test_a_module_of_before_is_the_one_of_now(name, function, now):
    sys.modules.pop(f"fairseq_masking.{name}", None)
    with pytest.warns(DeprecationWarning, match=f"fairseq_masking.{now} now"):
        before = importlib.import_module(f"fairseq_masking.{name}")
    assert getattr(before, function) is getattr(importlib.import_module(f"fairseq_masking.{now}"), function)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("fairseq_masking.export.nothing")
