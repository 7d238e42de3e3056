"""Minimal pairs: how often a model finds the acceptable one of two sentences likelier.

A folder of them is JSON lines as BLiMP has them, a file a paradigm; a phenomenon is a group of paradigms.
Source: Warstadt et al. 2020 (BLiMP, 1912.00582). Shapes: P pairs of a paradigm.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fairseq_masking.errors import UserError
from fairseq_masking.files import hash_file, whole_file
from fairseq_masking.measure.pseudo_likelihood import Predictor, pseudo_log_likelihoods

__all__ = ["Paradigm", "accuracy_rows", "read_paradigms", "score_pairs"]

_FIELDS = ("good", "good_tokens", "bad", "bad_tokens")
_RESAMPLES = 10_000
Floats = npt.NDArray[np.float64]


class Paradigm(NamedTuple):
    """A file of pairs, the acceptable sentence first; ``phenomenon`` is its own name where it does not say."""

    name: str
    phenomenon: str
    pairs: tuple[tuple[str, str], ...]
    sha256: str


def read_paradigms(folder: Path) -> list[Paradigm]:
    """Read a folder.

    Raises:
        UserError: it holds no ``*.jsonl``, or a line that is no pair.
    """
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise UserError(f"--minimal-pairs {folder}: no *.jsonl there; give a folder in BLiMP's layout")
    return [_read(path) for path in paths]


def _read(path: Path) -> Paradigm:
    sha256, pairs, row = hash_file(path), [], {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            pairs.append((row["sentence_good"].strip(), row["sentence_bad"].strip()))
            assert all(pairs[-1])
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
            raise UserError(f"{path}: line {number} holds no sentence_good and sentence_bad, two texts") from None
    return Paradigm(path.stem, str(row.get("linguistics_term", path.stem)), tuple(pairs), sha256)


def score_pairs(
    predictor: Predictor, paradigm: Paradigm, *, pll: str, stamp: str = "", out: Path | None = None, tokens: int = 4096
) -> Floats:
    """Return sum (nats) and number of tokens of the acceptable sentence, then of the other one: ``[P, 4]``.

    Args:
        pll, tokens: of ``pseudo_log_likelihoods``.
        stamp: what tells the model from others.
        out: folder; what it holds is read, else written there: JSON lines, first what they were made of.

    Raises:
        UserError: ``out`` holds scores of something else.
    """
    path, made_of = out and out / f"{paradigm.name}.jsonl", {"model": stamp, "pairs": paradigm.sha256, "pll": pll}
    if path is not None and path.is_file():
        first, *rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        if unlike := [name for name, value in made_of.items() if first.get(name) != value]:
            raise UserError(f"{path} was made of another {' and '.join(unlike)}: give another --out, or remove it")
        return np.array([[row[field] for field in _FIELDS] for row in rows])
    texts = [text for pair in paradigm.pairs for text in pair]
    found = pseudo_log_likelihoods(predictor, texts, pll=pll, tokens_per_batch=tokens).numpy().reshape(-1, 4)
    if path is not None:
        lines = [made_of, *(dict(zip(_FIELDS, row, strict=True)) for row in found.tolist())]
        with whole_file(path) as partial:
            partial.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return found


def accuracy_rows(scores: Mapping[Paradigm, Floats], *, by: str, seed: int = 1) -> list[dict[str, Any]]:
    """Return a row for each paradigm, each phenomenon and all: accuracy in percent, with 95% intervals.

    That of several paradigms is the mean of theirs; pairs are resampled within each. A tie counts half.

    Args:
        scores: of ``score_pairs``.
        by: compare "sum" or "mean".
    """
    rng, levels = np.random.default_rng(seed), {"paradigm": "name", "phenomenon": "phenomenon", "all": ""}
    correct, alone, draws = {}, {}, {}
    for one, found in scores.items():
        (good, n_good, bad, n_bad) = found.T
        correct[one] = 0.5 + 0.5 * np.sign(good - bad if by == "sum" else good / n_good - bad / n_bad)
        alone[one] = (0.5 + 0.5 * np.sign(n_bad - n_good if by == "sum" else 0 * n_bad)).mean()
        shares = [(correct[one] == value).mean() for value in (0.0, 0.5, 1.0)]  # so a resample is multinomial
        draws[one] = rng.multinomial(len(found), shares, size=_RESAMPLES) @ [0.0, 0.5, 1.0] / len(found)
    rows = []
    for level, field in levels.items():
        for name in dict.fromkeys(getattr(one, field, "all") for one in scores):
            own = [one for one in scores if getattr(one, field, "all") == name]
            low, high = np.percentile(np.mean([draws[one] for one in own], axis=0), (2.5, 97.5))
            values = {
                "accuracy": np.mean([correct[one].mean() for one in own]),
                "low": low,
                "high": high,
                "length_alone": np.mean([alone[one] for one in own]),
            }
            in_percent = {key: 100 * float(value) for key, value in values.items()}
            rows.append({"level": level, "name": name, "pairs": sum(len(one.pairs) for one in own), **in_percent})
    return rows
