"""Minimal pairs: scores of every method against a naive sum and minicons, accuracy by hand, the command."""

import json
import math

import numpy as np
import pytest
import torch
from commands import run_verb
from foreign_models import LINES, own_checkpoint, prepare

from fairseq_masking.checkpoints.hub import HubInterface
from fairseq_masking.checkpoints.hugging_face import export_checkpoint
from fairseq_masking.corpus.dictionary import load_dictionary
from fairseq_masking.corpus.manifest import load_normalizer, load_tokenizer
from fairseq_masking.errors import UserError
from fairseq_masking.measure import minimal_pairs
from fairseq_masking.measure.minimal_pairs import (
    Paradigm,
    Predictor,
    accuracy_rows,
    load_predictor,
    predictor_of,
    pseudo_log_likelihoods,
    read_paradigms,
    score_pairs,
)
from fairseq_masking.methods.amos.model import AmosConfig, AmosModel
from fairseq_masking.methods.map_net.model import MapNetConfig, MapNetModel
from fairseq_masking.methods.mlm.model import MLMConfig, MLMModel
from fairseq_masking.methods.three_ml.model import ThreeMLConfig, ThreeMLModel

TEXTS = ["The cat sat on the red mat.", "The cats sat on the red mat.", "An old dog ate it; the cat saw.", "The cat"]
SMALL = {"proposal_layers": 1, "proposal_embed_dim": 16, "proposal_ffn_embed_dim": 16, "proposal_attention_heads": 1}
METHODS = {
    "mlm": (MLMModel, MLMConfig, {}),
    "map_net": (MapNetModel, MapNetConfig, SMALL),
    "self": (ThreeMLModel, ThreeMLConfig, {"decoder_attention": "self", "decoder_layers": 1}),
    "cross": (ThreeMLModel, ThreeMLConfig, {"decoder_attention": "cross", "decoder_layers": 1}),
    "amos": (AmosModel, AmosConfig, {"generator_layers": [1, 2], "max_update": 10}),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("pairs"), "--vocab-size", "90")


def hub_of(data, folder, name="mlm"):
    model_class, config_class, options = METHODS[name]
    model = own_checkpoint(model_class, config_class, folder / f"{name}.pt", data, max_positions=64, **options)
    return HubInterface(model, load_dictionary(data / "dict.txt"), load_tokenizer(data), load_normalizer(data))


def naive(hub, text, *, within_words):
    """One token after the other, all logits of one row; words by SentencePiece's mark, read off the symbols."""
    ids, total = hub.encode(text), 0.0
    for column in range(1, len(ids) - 1):
        masked = ids.clone()
        masked[column] = hub.model.mask_index
        for later in range(column + 1, len(ids) - 1):
            if not within_words or hub.dictionary[int(ids[later])].startswith("▁"):
                break
            masked[later] = hub.model.mask_index
        logits, _ = hub.model(masked[None])
        total += float(logits[0, column].double().log_softmax(0)[ids[column]])
    return total, len(ids) - 2


@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_every_method_against_a_naive_sum(data, tmp_path, name):
    hub = hub_of(data, tmp_path, name)
    predictor, found = predictor_of(hub), {}
    for pll in ("l2r", "plain"):
        found[pll] = pseudo_log_likelihoods(predictor, TEXTS, pll=pll, tokens_per_batch=40).numpy()
        expected = np.array([naive(hub, text, within_words=pll == "l2r") for text in TEXTS])
        np.testing.assert_allclose(found[pll], expected, atol=1e-4, rtol=0)
    assert abs(found["l2r"] - found["plain"])[:, 0].min() > 0.01, "these texts have words of several pieces"
    assert predictor.said == {"amos": "generator, its deepest layer"}.get(name, "encoder and decoder" if name in (
        "self", "cross") else "encoder")  # fmt: skip


def test_an_export_scores_alike_and_as_minicons(transformers, data, tmp_path):
    hub = hub_of(data, tmp_path)
    export_checkpoint(tmp_path / "mlm.pt", tmp_path / "out")
    theirs = load_predictor(tmp_path / "out")
    for pll in ("l2r", "plain"):
        ours = pseudo_log_likelihoods(predictor_of(hub), TEXTS, pll=pll).numpy()
        np.testing.assert_allclose(pseudo_log_likelihoods(theirs, TEXTS, pll=pll).numpy(), ours, atol=1e-4, rtol=0)
    scorer = pytest.importorskip("minicons.scorer", reason="pip install --no-deps minicons accelerate wonderwords")
    judge = scorer.MaskedLMScorer(str(tmp_path / "out"), "cpu")
    kind = type(judge.tokenizer)
    kind.batch_encode_plus = getattr(kind, "batch_encode_plus", kind.__call__)  # gone with transformers 5
    for pll, metric in (("l2r", "within_word_l2r"), ("plain", "original")):
        ours = pseudo_log_likelihoods(predictor_of(hub), TEXTS, pll=pll)[:, 0]
        judged = judge.sequence_score(TEXTS, reduction=lambda scores: scores.sum(0).item(), PLL_metric=metric)
        np.testing.assert_allclose(ours, judged, atol=1e-4, rtol=0)


def test_what_predicts_nothing_is_refused(transformers, data, tmp_path):
    hub_of(data, tmp_path)
    export_checkpoint(tmp_path / "mlm.pt", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    model = transformers.RobertaModel(transformers.RobertaConfig(**config))
    model.save_pretrained(tmp_path / "out")
    with pytest.raises(UserError, match="nothing of it predicts tokens"):
        load_predictor(tmp_path / "out")


class Constant:
    """A model that knows nothing, of words as tokens; it counts what it reads."""

    def __init__(self):
        self.ids, self.read = {}, []

    def encode(self, texts):
        words = [text.split() for text in texts]
        ids = [[self.ids.setdefault(word, 3 + len(self.ids)) for word in one] for one in words]
        return [([0, *one, 1], [None, *range(len(one)), None]) for one in ids]

    def logits(self, tokens_BT, positions_B):
        self.read += [(*row.tolist(), int(at) % len(row)) for row, at in zip(tokens_BT, positions_B, strict=True)]
        assert tokens_BT.numel() <= 12
        return torch.full((len(tokens_BT), 50), 0.3)

    @property
    def predictor(self):
        return Predictor(self.encode, self.logits, 2, "nothing")


PAIRS = (("a b c", "a b d"), ("a a", "a b c"), ("a b c d", "a b"), ("b c", "c d"))


def test_constant_logits_are_worth_a_half():
    model, paradigm = Constant(), Paradigm("p", "q", PAIRS, "")
    found = score_pairs(model.predictor, paradigm, pll="l2r", tokens=12)
    np.testing.assert_allclose(found[:, 0], -found[:, 1] * math.log(50), rtol=1e-6)
    by_mean, by_sum = (accuracy_rows({paradigm: found}, by=by)[-1] for by in ("mean", "sum"))
    assert by_mean["accuracy"] == by_mean["length_alone"] == 50.0
    assert by_sum["accuracy"] == by_sum["length_alone"] == 50.0, "one pair is longer, one shorter"
    equal = Paradigm("p", "q", PAIRS[::3], "")
    assert accuracy_rows({equal: found[::3]}, by="sum")[-1] == {
        "level": "all", "name": "all", "pairs": 2,
        "accuracy": 50.0, "low": 50.0, "high": 50.0, "length_alone": 50.0,
    }  # fmt: skip
    assert len(model.read) == len(set(model.read)) < found[:, [1, 3]].sum(), "copies masked alike are read once"


def test_accuracy_by_hand():
    """Three paradigms of two phenomena: the mean of means, a tie a half, an interval as scipy has it."""
    one = np.array([[-1.0, 1, -2, 1]] * 60 + [[-3, 1, -2, 1]] * 36 + [[-2, 1, -2, 1]] * 4)
    two, three = np.array([[-6.0, 3, -5, 2]] * 10), np.array([[-1.0, 1, -2, 1]] * 5)
    scores = {
        Paradigm(name, group, (("x", "y"),) * len(found), ""): found
        for name, group, found in (("one", "A", one), ("two", "A", two), ("three", "B", three))
    }
    rows = {(row["level"], row["name"]): row for row in accuracy_rows(scores, by="sum")}
    accuracies = {key: row["accuracy"] for key, row in rows.items()}
    assert accuracies == pytest.approx(
        {("paradigm", "one"): 62, ("paradigm", "two"): 0, ("paradigm", "three"): 100, ("phenomenon", "A"): 31,
         ("phenomenon", "B"): 100, ("all", "all"): 54}
    )  # fmt: skip
    assert rows["all", "all"]["pairs"] == 115 and rows["paradigm", "two"]["length_alone"] == 0
    half_width = 1.96 * np.sqrt((0.6 * 0.38**2 + 0.36 * 0.62**2 + 0.04 * 0.12**2) / 100) * 100
    for key, share in ((("paradigm", "one"), 1), (("phenomenon", "A"), 1 / 2), (("all", "all"), 1 / 3)):
        row = rows[key]
        assert (row["high"] - row["low"]) / 2 == pytest.approx(share * half_width, rel=0.05)
    by_mean = {row["name"]: row["accuracy"] for row in accuracy_rows(scores, by="mean")}
    assert by_mean["two"] == 100, "-2 a token against -2.5"


def write_pairs(folder, name, pairs, **more):
    folder.mkdir(exist_ok=True)
    rows = [{"sentence_good": good, "sentence_bad": bad, "UID": name, **more} for good, bad in pairs]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_the_command(data, tmp_path, capsys, monkeypatch):
    """Tables, a file a paradigm, and a second time only what is missing."""
    hub = hub_of(data, tmp_path)
    monkeypatch.setattr(HubInterface, "from_pretrained", lambda *_, **__: hub)
    pairs, out = tmp_path / "pairs", tmp_path / "out"
    write_pairs(pairs, "one", [(LINES[0], LINES[2]), (TEXTS[0], TEXTS[1])], linguistics_term="agreement")
    write_pairs(pairs, "two", [(TEXTS[0], TEXTS[2])])
    options = ["--checkpoint", f"M={tmp_path / 'mlm.pt'}", "--minimal-pairs", pairs, "--out", out]
    assert run_verb("score", *options) == 0
    printed = capsys.readouterr().out
    assert "M, by its encoder (--pll l2r --by sum)" in printed and "| agreement " in printed and "| all " in printed
    assert sorted(path.name for path in (out / "M").iterdir()) == ["one.jsonl", "two.jsonl"]
    _, row, _ = map(json.loads, (out / "M" / "one.jsonl").read_text().splitlines())
    assert row["good"] == pytest.approx(naive(hub, LINES[0], within_words=True)[0], abs=1e-4)
    table = (out / "scores.csv").read_text()
    (out / "M" / "two.jsonl").unlink()
    scored, compute = [], minimal_pairs.pseudo_log_likelihoods
    monkeypatch.setattr(
        minimal_pairs, "pseudo_log_likelihoods", lambda *args, **more: scored.append(args[1]) or compute(*args, **more)
    )
    assert run_verb("score", *options) == 0
    assert capsys.readouterr().out == printed and scored == [[TEXTS[0], TEXTS[2]]]
    assert (out / "scores.csv").read_text().split(",fairseq-masking")[0] == table.split(",fairseq-masking")[0]
    assert run_verb("score", *options, "--pll", "plain") == 1
    assert "was made of another pll: give another --out" in capsys.readouterr().err
    assert run_verb("score", *options, "--checkpoint", f"M={tmp_path}", f"M={pairs}") == 2
    assert "NAME=PATH" in capsys.readouterr().err


@pytest.mark.parametrize("line", ['{"sentence_good": "a"}', "[]", '{"sentence_good": "a", "sentence_bad": " "}', "x"])
def test_a_folder_of_something_else(tmp_path, line):
    with pytest.raises(UserError, match=r"no \*\.jsonl there"):
        read_paradigms(tmp_path)
    (tmp_path / "p.jsonl").write_text('{"sentence_good": "a", "sentence_bad": "b"}\n' + line + "\n")
    with pytest.raises(UserError, match=r"p\.jsonl: line 2 holds no sentence_good and sentence_bad"):
        read_paradigms(tmp_path)
