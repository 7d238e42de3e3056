"""Minimal pairs: how often a model finds the acceptable one of two sentences likelier, by pseudo-log-likelihood.

A folder of pairs is JSON lines as BLiMP has them, a file a paradigm; a phenomenon is a group of paradigms. A
sentence's score is that of each token given all the others, summed, in nats. Within a word the tokens behind the
one that is asked for are masked with it ("l2r"): else a word of several pieces, each told by the others, looks
likelier than it is.
Source: Warstadt et al. 2020 (BLiMP, 1912.00582); Salazar et al. 2020 (1910.14659), Eq. 1 ("plain"); Kauf and
Ivanova 2023 (2305.10588), PLL-word-l2r. Shapes: P pairs of a paradigm, S sentences, B masked copies of one length
T, N tokens asked for in them, V vocabulary.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairseq_masking.checkpoints.hub import HubInterface
from fairseq_masking.checkpoints.hugging_face import load_with_transformers
from fairseq_masking.corpus.dictionary import ids_of
from fairseq_masking.errors import UserError
from fairseq_masking.files import hash_file, whole_file
from fairseq_masking.ops import gather_positions

__all__ = [
    "Paradigm", "Predictor", "accuracy_rows", "load_predictor", "predictor_of", "pseudo_log_likelihoods",
    "read_paradigms", "score_pairs",
]  # fmt: skip

_FIELDS = ("good", "good_tokens", "bad", "bad_tokens")
_RESAMPLES = 10_000
Encoded = tuple[Sequence[int], Sequence[int | None]]
Floats = npt.NDArray[np.float64]


class Paradigm(NamedTuple):
    """A file of pairs, the acceptable sentence first; ``phenomenon`` is its own name where it does not say."""

    name: str
    phenomenon: str
    pairs: tuple[tuple[str, str], ...]
    sha256: str


class Predictor(NamedTuple):
    """What is needed of a model."""

    # texts to ids with the special tokens around them, and the number of each one's word: None at special ones, which
    # are not scored
    encode: Callable[[Sequence[str]], list[Encoded]]
    # of int64 tokens [B, T] without padding at flat positions [B] (row * T + column): [B, V]
    logits: Callable[[Tensor, Tensor], Tensor]
    mask_index: int
    said: str  # what of it predicts


def read_paradigms(folder: Path) -> list[Paradigm]:
    """Read a folder.

    Raises:
        UserError: it holds no ``*.jsonl``, or a line that is no pair.
    """
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        sha256, pairs, row = hash_file(path), [], {}
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            try:
                row = json.loads(line)
                pairs.append((row["sentence_good"].strip(), row["sentence_bad"].strip()))
                assert all(pairs[-1])
            except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
                raise UserError(f"{path}: line {number} holds no sentence_good and sentence_bad, two texts") from None
        found.append(Paradigm(path.stem, str(row.get("linguistics_term", path.stem)), tuple(pairs), sha256))
    if not found:
        raise UserError(f"--minimal-pairs {folder}: no *.jsonl there; give a folder in BLiMP's layout")
    return found


def score_pairs(
    predictor: Predictor, paradigm: Paradigm, *, pll: str, stamp: str = "", out: Path | None = None, tokens: int = 4096
) -> Floats:
    """Return sum (nats) and number of tokens of the acceptable sentence, then of the other one: ``[P, 4]``.

    Args:
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
    """
    rng, levels = np.random.default_rng(seed), {"paradigm": "name", "phenomenon": "phenomenon", "all": ""}
    correct, alone, draws = {}, {}, {}
    for one, found in scores.items():
        (good, n_good, bad, n_bad) = found.T
        correct[one] = 0.5 + 0.5 * np.sign(good - bad if by == "sum" else good / n_good - bad / n_bad)
        alone[one] = 0.5 + 0.5 * np.sign(n_bad - n_good if by == "sum" else 0 * n_bad)
        shares = [(correct[one] == value).mean() for value in (0.0, 0.5, 1.0)]  # so a resample is multinomial
        draws[one] = rng.multinomial(len(found), shares, size=_RESAMPLES) @ [0.0, 0.5, 1.0] / len(found)
    rows = []
    for level, field in levels.items():
        for name in dict.fromkeys(getattr(one, field, "all") for one in scores):
            own = [one for one in scores if getattr(one, field, "all") == name]
            low, high = np.percentile(np.mean([draws[one] for one in own], axis=0), (2.5, 97.5))
            accuracy, by_length = (np.mean([of[one].mean() for one in own]) for of in (correct, alone))
            shares = {"accuracy": accuracy, "low": low, "high": high, "length_alone": by_length}
            in_percent = {key: 100 * float(value) for key, value in shares.items()}
            rows.append({"level": level, "name": name, "pairs": sum(len(one.pairs) for one in own), **in_percent})
    return rows


@torch.inference_mode()
def pseudo_log_likelihoods(
    predictor: Predictor, texts: Sequence[str], *, pll: str = "l2r", tokens_per_batch: int = 4096
) -> Tensor:
    """Return for each text the sum of its log probabilities and of how many tokens it is: fp64 ``[S, 2]``.

    Copies that are masked alike are computed once, those of one length together, so that there is no padding. ``pll``
    "plain" masks nothing but the token; ``tokens_per_batch`` bounds the memory.
    """
    wanted: dict[tuple[int, tuple[int, ...]], list[tuple[int, int]]] = {}  # a copy -> (sentence, token) asked for
    for sentence, (ids, words) in enumerate(predictor.encode(texts)):
        for column in (column for column, word in enumerate(words) if word is not None):
            masked = list(ids)
            for later in range(column, len(ids) if pll == "l2r" else column + 1):
                if words[later] == words[column]:
                    masked[later] = predictor.mask_index
            wanted.setdefault((column, tuple(masked)), []).append((sentence, ids[column]))
    found_S2 = torch.zeros(len(texts), 2, dtype=torch.float64)
    for length, group in groupby(sorted(wanted, key=lambda copy: len(copy[1])), lambda copy: len(copy[1])):
        copies, size = list(group), max(1, tokens_per_batch // length)
        for batch in (copies[start : start + size] for start in range(0, len(copies), size)):
            columns_B, tokens_BT = (torch.tensor(values) for values in zip(*batch, strict=True))
            logits_BV = predictor.logits(tokens_BT, columns_B + length * torch.arange(len(batch))).float()
            asked = [(row, *one) for row, copy in enumerate(batch) for one in wanted[copy]]
            row_N, sentence_N, token_N = torch.tensor(asked, device=logits_BV.device).T
            scores_N = logits_BV[row_N, token_N] - logits_BV.logsumexp(1)[row_N]
            one_N = torch.ones_like(scores_N)
            found_S2.index_add_(0, sentence_N.cpu(), torch.stack([scores_N, one_N], dim=1).double().cpu())
    return found_S2


def load_predictor(path: Path, data: Path | None = None, device: str = "cpu") -> Predictor:
    """Return what predicts tokens of a checkpoint of ours, or of a Hugging Face folder, in fp32.

    Raises:
        UserError: neither, or it predicts no tokens.
    """
    if (path / "config.json").is_file():
        return _hugging_face(path, device)
    hub = HubInterface.from_pretrained(path, data=data)
    if not hub.model.pretrains:
        raise UserError(f"{path} was fine-tuned, which leaves behind what predicts tokens: give a pre-trained one")
    return predictor_of(hub, device)


def predictor_of(hub: HubInterface, device: str = "cpu") -> Predictor:
    """Return the same of a loaded checkpoint of ours."""
    model, dictionary = hub.model.float().to(device), hub.dictionary

    def encode(texts: Sequence[str]) -> list[Encoded]:
        written = [hub.tokenizer.encode_words(hub.normalizer(text)) for text in texts]
        ids = [[dictionary.bos(), *ids_of(symbols, dictionary), dictionary.eos()] for symbols, _ in written]
        hub.check_known(torch.tensor(list(chain(*ids))), texts)
        return [(one, [None, *words, None]) for one, (_, words) in zip(ids, written, strict=True)]

    def logits(tokens_BT: Tensor, positions_B: Tensor) -> Tensor:
        return model.token_logits(tokens_BT.to(device), positions_B.to(device))

    return Predictor(encode, logits, model.mask_index, model.predicts_with)


def _hugging_face(folder: Path, device: str) -> Predictor:
    tokenizer, model, missing = load_with_transformers(folder, "AutoModelForMaskedLM", "masked language model")
    if missing:
        raise UserError(f"{folder} lacks {missing[0]}: nothing of it predicts tokens")
    if tokenizer.mask_token_id is None or not tokenizer.is_fast:
        raise UserError(f"{folder}: its tokeniser has no mask token, or no tokenizer.json that tells words apart")
    asked: list[Tensor] = []

    def gather(_: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (gather_positions(inputs[0], asked[0]),)

    model.to(device).get_output_embeddings().register_forward_pre_hook(gather)  # it makes no [B, T, V]

    def encode(texts: Sequence[str]) -> list[Encoded]:
        encoded = tokenizer(list(texts))
        if (longest := max(map(len, encoded["input_ids"]))) > tokenizer.model_max_length:
            raise UserError(f"{longest} tokens are more than the {tokenizer.model_max_length} that {folder} reads")
        return [(ids, encoded.word_ids(number)) for number, ids in enumerate(encoded["input_ids"])]

    def logits(tokens_BT: Tensor, positions_B: Tensor) -> Tensor:
        tokens_BT, asked[:] = tokens_BT.to(device), [positions_B.to(device)]
        return model(input_ids=tokens_BT, attention_mask=torch.ones_like(tokens_BT)).logits

    return Predictor(encode, logits, tokenizer.mask_token_id, type(model).__name__)
