"""Edge probing: reading by hand, spans against states by hand, planted layers, an export, the command."""

import json

import pytest
import torch
from commands import run_verb
from foreign_models import LINES, own_checkpoint, prepare
from sklearn.metrics import f1_score

from fairseq_masking.checkpoints.hub import HubInterface
from fairseq_masking.checkpoints.hugging_face import export_checkpoint
from fairseq_masking.corpus.dictionary import load_dictionary
from fairseq_masking.corpus.manifest import load_normalizer, load_tokenizer
from fairseq_masking.errors import UserError
from fairseq_masking.measure.edge_probing import edge_states, load_states, micro_f1, probing_rows, read_sentences
from fairseq_masking.methods.amos.model import AmosConfig, AmosModel
from fairseq_masking.methods.mlm.model import MLMConfig, MLMModel

TREE = """# text = The cat didn't sit.
1\tThe\tthe\tDET\t_\t_\t2\tdet\t_\t_
2\tcat\tcat\tNOUN\t_\t_\t5\tnsubj\t_\t_
3-4\tdidn't\t_\t_\t_\t_\t_\t_\t_\t_
3\tdid\tdo\tAUX\t_\t_\t5\taux\t_\tSpaceAfter=No
4\tn't\tnot\tPART\t_\t_\t5\tadvmod\t_\t_
5\tsit\tsit\tVERB\t_\t_\t0\troot\t_\tSpaceAfter=No
5.1\tdown\tdown\tADV\t_\t_\t_\t_\t_\t_
6\t.\t.\tPUNCT\t_\t_\t5\tpunct\t_\t_
"""


def test_trees_and_lines_by_hand(tmp_path):
    path = tmp_path / "a.conllu"
    path.write_text(f"{TREE}\n{TREE}\n")
    first, second = read_sentences(path)
    assert first == second and first.text == "The cat didn't sit."
    assert [first.text[a:b] for a, b in first.words] == ["The", "cat", "did", "n't", "sit", "."]
    assert [labels[0] for _, labels in first.edges] == ["DET", "NOUN", "AUX", "PART", "VERB", "PUNCT"]
    heads = read_sentences(path, "dependency")[0].edges
    assert heads[0] == ([(0, 1), (1, 2)], ("det",)) and len(heads) == 5, "the root has no head"
    lines = tmp_path / "a.jsonl"
    target = {"span1": [0, 2], "span2": [2, 3], "label": ["x", "y"]}
    lines.write_text(json.dumps({"text": "The  cat sat", "targets": [target]}) + "\n")
    (sentence,) = read_sentences(lines)
    assert sentence.edges == [([(0, 2), (2, 3)], ("x", "y"))]
    lines.write_text(lines.read_text() + json.dumps({"text": "A", "targets": [{"span1": [0, 2], "label": "x"}]}))
    with pytest.raises(UserError, match=r"a\.jsonl: line 2 .*spans \[\(0, 2\)\] of 1 words"):
        read_sentences(lines)
    path.write_text("1\tThe\n")
    with pytest.raises(UserError, match="sentence 1 is no tree"):
        read_sentences(path)


def test_micro_f1_is_sklearns():
    generator = torch.Generator().manual_seed(1)
    found, wanted = (torch.rand(2, 50, 4, generator=generator) < 0.4).unbind()
    assert micro_f1(found, wanted) == pytest.approx(100 * f1_score(wanted, found, average="micro"))
    assert micro_f1(found, found, unseen=int(found.sum())) == pytest.approx(100 * 2 / 3)


def planted(count, seed):
    """Layer 1 tells two of four labels apart, layer 2 all; no other layer anything."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    edges = torch.randn(4, count, 8, generator=generator)
    edges[1, :, 0] += 6.0 * (labels == 0)
    edges[2, :, :4] += 8.0 * torch.eye(4)[labels]
    return edges.half(), [(f"label{label}",) for label in labels.tolist()]


def test_a_planted_layer_is_found():
    rows = probing_rows(planted(300, 1), planted(200, 2))
    alone, mixed = [row["f1"] for row in rows], [row["f1_mix"] for row in rows]
    assert alone[2] > 95 > 60 > alone[1] > alone[0] and alone[3] < 40
    assert mixed[3] > 95 and mixed[0] < 40
    assert max(rows, key=lambda row: row["weight"])["layer"] == 2
    assert sum(row["weight"] for row in rows) == pytest.approx(1)
    assert 1.2 < rows[0]["expected_layer"] < 2.2 and 15 < rows[0]["majority"] < 40
    some = probing_rows(*((edges[[0, 2]], labels) for edges, labels in (planted(300, 1), planted(200, 2))), [0, 2])
    assert [row["layer"] for row in some] == [0, 2] and some[1]["f1"] == pytest.approx(alone[2])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("probing"), "--vocab-size", "90", "--lowercase")


def loads(monkeypatch, data, path, model_class, config_class, **options):
    """A checkpoint as far as it is read here."""
    model = own_checkpoint(model_class, config_class, path, data, max_positions=64, **options)
    hub = HubInterface(model, load_dictionary(data / "dict.txt"), load_tokenizer(data), load_normalizer(data))
    monkeypatch.setattr(HubInterface, "from_pretrained", lambda *_, **__: hub)
    return hub


def test_spans_are_means_of_their_tokens_and_an_export_has_the_same(data, tmp_path, transformers, monkeypatch):
    hub = loads(monkeypatch, data, tmp_path / "mlm.pt", MLMModel, MLMConfig)
    lines = tmp_path / "edges.jsonl"
    rows = [{"text": text, "targets": [{"span1": [0, 2], "label": "x"}, {"span1": [3, 4], "label": "y"}]} for text in
            (LINES[0], LINES[2], "The cat " * 60)]  # fmt: skip
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sentences = read_sentences(lines)
    found, labels = edge_states(load_states(tmp_path / "mlm.pt"), sentences)
    assert found.shape == (3, 4, 32) and labels == [("x",), ("y",)] * 2, "the last text is longer than 64 tokens"
    text = LINES[2]
    symbols = hub.tokenizer.encode(hub.normalizer(text))
    pieces = len(hub.tokenizer.encode(hub.normalizer("An old")))
    states = hub.extract_features(hub.encode(text), return_all_hiddens=True)
    for layer in range(3):
        expected = states[layer][0, 1 : 1 + pieces].mean(0)
        torch.testing.assert_close(found[layer, 2].float(), expected, atol=5e-3, rtol=5e-3)
    assert pieces < len(symbols) and pieces > 2
    export_checkpoint(tmp_path / "mlm.pt", tmp_path / "out")
    theirs, _ = edge_states(load_states(tmp_path / "out"), sentences[:2])
    torch.testing.assert_close(theirs, found, atol=1e-2, rtol=1e-2)
    with pytest.raises(UserError, match=r"--generator: .* has none"):
        load_states(tmp_path / "mlm.pt", generator=True)


def test_the_command(data, tmp_path, capsys, monkeypatch):
    loads(monkeypatch, data, tmp_path / "amos.pt", AmosModel, AmosConfig, generator_layers=[1, 2])
    trees = tmp_path / "trees.conllu"
    trees.write_text("\n".join([TREE] * 10))
    options = ["--checkpoint", f"A={tmp_path / 'amos.pt'}", "--data", trees, "--of", "dependency", "--generator"]
    options += ["--out", tmp_path / "p.csv", "--figure", tmp_path / "p.png"]
    assert run_verb("measure", "probing", *options) == 0
    shown = capsys.readouterr().out
    assert "A: 10 edges, 5 labels" in shown and "expected layer" in shown and "100.0" in shown
    assert (tmp_path / "p.png").stat().st_size > 1000
    assert (tmp_path / "p.csv").read_text().splitlines()[-1].startswith("A,2,")
    assert run_verb("measure", "probing", *options, "--layers", 1, 7) == 1
    assert "--layers 7: there are 0, the embedding, to 2" in capsys.readouterr().err
