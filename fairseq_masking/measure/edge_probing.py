"""Edge probing: what the frozen states of each layer say about spans of words, by a linear classifier.

A span is the mean of its tokens' states; an edge is one span, or two side by side. Two classifiers are fitted for each
layer: on its states, and on a learned mix of all layers up to it, whose gains tell where a task is solved.
Source: Tenney et al. 2019, 1905.06316 (edges, micro F1) and 1905.05950, Section 2 (the mix, Eq. 1 to 4); 2204.03243,
Figure 4 (layers one by one). Shapes: N edges, L layers (the embedding's first), D width, C labels, T tokens.
"""

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fairseq_masking.checkpoints.hub import HubInterface
from fairseq_masking.checkpoints.hugging_face import load_with_transformers
from fairseq_masking.corpus.encoding import TextEncoder
from fairseq_masking.errors import UserError, first_line
from fairseq_masking.tokenizers import Offsets

__all__ = ["Sentence", "edge_states", "load_states", "micro_f1", "probing_rows", "read_sentences"]

logger = logging.getLogger(__name__)

_WEIGHT_DECAY = 1e-3  # of squared weights, and of the mix's, which would run away where layers are equally good
_STEPS = 100  # of L-BFGS, at most
States = Callable[[str], tuple[list[Offsets], Tensor | None]]
Edges = tuple[Tensor, list[tuple[str, ...]]]


class Sentence(NamedTuple):
    """A text, where in it each word stands, and edges: one or two spans (first word, after the last), and labels."""

    text: str
    words: list[Offsets]
    edges: list[tuple[list[tuple[int, int]], tuple[str, ...]]]


def read_sentences(path: Path, of: str = "pos") -> list[Sentence]:
    """Read jiant's JSON lines (measure/README.md), or trees of a ``*.conllu``.

    A tree's edges are its words with their UPOS ("pos"), or words and heads with their DEPREL ("dependency").

    Raises:
        UserError: something in it is neither, or there is no edge.
    """
    trees, text = path.suffix == ".conllu", path.read_text(encoding="utf-8")
    sentences = []
    for number, block in enumerate(text.split("\n\n") if trees else text.splitlines(), start=1):
        try:
            if block.strip():
                sentences.append(_tree(block, of) if trees else _targets(json.loads(block)))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            kind = "sentence %d is no tree" if trees else "line %d is no text with targets of span1 and label"
            raise UserError(f"{path}: {kind % number} ({first_line(error)})") from error
    if not any(sentence.edges for sentence in sentences):
        raise UserError(f"{path} holds no edge")
    return sentences


def _targets(row: dict[str, Any]) -> Sentence:
    words, edges = [(word, " ") for word in row["text"].split()], []
    for target in row["targets"]:
        spans = [(start, stop) for start, stop in (target[key] for key in ("span1", "span2") if target.get(key))]
        if not spans or any(not 0 <= start < stop <= len(words) for start, stop in spans):
            raise ValueError(f"spans {spans} of {len(words)} words")
        label = target["label"]
        edges.append((spans, (label,) if isinstance(label, str) else tuple(label)))
    return _sentence(words, edges)


def _tree(block: str, of: str) -> Sentence:
    lines = [line.split("\t") for line in block.splitlines() if line and not line.startswith("#")]
    rows = [line for line in lines if line[0].isdecimal()]  # neither contractions (1-2) nor gaps (1.1)
    edges = [([(at, at + 1)], (row[3],)) for at, row in enumerate(rows)]
    if of == "dependency":  # all but the root's, whose head is 0
        heads = [(at, int(row[6]), row[7]) for at, row in enumerate(rows)]
        edges = [([(at, at + 1), (head - 1, head)], (label,)) for at, head, label in heads if head]
    return _sentence([(row[1], "" if "SpaceAfter=No" in row[9] else " ") for row in rows], edges)


def _sentence(words: Sequence[tuple[str, str]], edges: Any) -> Sentence:
    text, offsets = "", []
    for word, after in words:
        offsets.append((len(text), len(text) + len(word)))
        text += word + after
    return Sentence(text.rstrip(), offsets, edges)


def load_states(path: Path, data: Path | None = None, device: str = "cpu", *, generator: bool = False) -> States:
    """Return what gives of a text where its tokens stand and their states ``[L, T, D]``; None of one that is too long.

    Raises:
        UserError: neither a checkpoint of ours nor a Hugging Face folder, or no generator.
    """
    if (path / "config.json").is_file():
        return _hugging_face(path, device)
    hub = HubInterface.from_pretrained(path, data=data)
    model, dictionary = hub.model.float().to(device), hub.dictionary
    encoder = TextEncoder(hub.tokenizer, dictionary, hub.normalizer)
    if generator and not hasattr(model, "generator"):
        raise UserError(f"--generator: {path} has none, as AMOS's pre-trained checkpoints do")

    @torch.inference_mode()
    def states(text: str) -> tuple[list[Offsets], Tensor | None]:
        ids, offsets = encoder.with_offsets(text)
        if len(ids) + 2 > model.max_positions():
            return offsets, None
        tokens = torch.tensor([[dictionary.bos(), *ids, dictionary.eos()]], device=device)
        found = model.token_states(tokens) if generator else hub.extract_features(tokens, return_all_hiddens=True)
        return offsets, torch.cat(list(found))[:, 1:-1]

    return states


def _hugging_face(folder: Path, device: str) -> States:
    tokenizer, model, _ = load_with_transformers(folder, "AutoModel", "encoder")
    model.to(device)

    @torch.inference_mode()
    def states(text: str) -> tuple[list[Offsets], Tensor | None]:
        encoded = tokenizer(text, return_offsets_mapping=True, return_tensors="pt")
        offsets = encoded.pop("offset_mapping")[0].tolist()
        if len(offsets) > tokenizer.model_max_length:
            return offsets, None
        return offsets, torch.cat(model(**encoded.to(device), output_hidden_states=True).hidden_states)

    return states


def edge_states(states: States, sentences: Sequence[Sentence], layers: Sequence[int] | None = None) -> Edges:
    """Return edges fp16 ``[L, N, D]`` and their labels; those without a token, or in a text too long, are left out.

    Raises:
        UserError: nothing is left, some edges have one span and some two, or there is no such layer.
    """
    kept, labels, lost = [], [], 0
    for text, words, edges in sentences:
        offsets, states_LTD = states(text)
        if states_LTD is not None and layers:
            if not 0 <= min(layers) <= max(layers) < len(states_LTD):
                raise UserError(f"--layers {max(layers)}: there are 0, the embedding, to {len(states_LTD) - 1}")
            states_LTD = states_LTD[layers]
        for spans, said in edges:
            ends = [(words[start][0], words[stop - 1][1]) for start, stop in spans]
            chosen = [[at for at, (a, b) in enumerate(offsets) if begin < b > a < end] for begin, end in ends]
            if states_LTD is None or not all(chosen):
                lost += 1
                continue
            kept.append(torch.cat([states_LTD[:, tokens].mean(1) for tokens in chosen], dim=-1).cpu().half())
            labels.append(said)
    if lost:
        logger.warning(f"{lost} edges have no token, or stand in a text longer than the model reads: left out")
    if len({edge.shape for edge in kept}) != 1:
        raise UserError("some edges have one span, some two: a file for each" if kept else "no edge is left")
    return torch.stack(kept, dim=1), labels


def probing_rows(train: Edges, test: Edges, layers: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Fit the classifiers; return a row a layer.

    Micro F1 of the layer and of the mix so far in percent, its weight in the whole mix; in every row the mean layer
    by weight ("center_of_gravity", 1905.05950, Eq. 2) and by gain ("expected_layer", Eq. 4; nan where none gains), and
    F1 of the most frequent label ("majority").
    """
    counts = Counter(name for labels in train[1] for name in labels)
    names = sorted(counts)
    targets_NC, wanted_NC = (
        torch.tensor([[name in said for name in names] for said in of]) for _, of in (train, test)
    )
    unseen = sum(len(set(labels) - set(names)) for labels in test[1])  # no classifier can find them
    mean, deviation = train[0].float().mean(1, keepdim=True), train[0].float().std(1, keepdim=True).clamp(min=1e-6)
    edges_LND, tested_LND = ((found.float() - mean) / deviation for found, _ in (train, test))
    rows, weights = [], []
    for last, layer in enumerate(layers or range(len(edges_LND))):
        row = {"layer": layer, "edges": len(test[1]), "labels": len(names)}
        for name, first in (("f1", last), ("f1_mix", 0)):
            predict, weights = _fit(edges_LND[first : last + 1], targets_NC.float())
            row[name] = micro_f1(predict(tested_LND[first : last + 1]) > 0, wanted_NC, unseen)
        rows.append(row)
    gains = {after["layer"]: after["f1_mix"] - before["f1_mix"] for before, after in pairwise(rows)}
    total, most = sum(gains.values()), torch.tensor([counts[name] == max(counts.values()) for name in names])
    where = {
        "center_of_gravity": sum(row["layer"] * weight for row, weight in zip(rows, weights, strict=True)),
        "expected_layer": sum(layer * gain for layer, gain in gains.items()) / total if total > 0 else math.nan,
        "majority": micro_f1(most.expand_as(wanted_NC), wanted_NC, unseen),
    }
    return [{**row, "weight": weight, **where} for row, weight in zip(rows, weights, strict=True)]


def micro_f1(found_NC: Tensor, wanted_NC: Tensor, unseen: int = 0) -> float:
    """Return F1 over all labels of all edges in percent; bool ``[N, C]``, ``unseen`` are wanted beside them."""
    right = int((found_NC & wanted_NC).sum())
    return 200 * right / max(1, int(found_NC.sum()) + int(wanted_NC.sum()) + unseen)


def _fit(edges_LND: Tensor, targets_NC: Tensor) -> tuple[Callable[[Tensor], Tensor], list[float]]:
    """Logistic regression of each label on a mix of layers; returns edges to logits, and the layers' weights."""
    num_labels = targets_NC.shape[1]
    shapes = ((len(edges_LND),), (num_labels, edges_LND.shape[2]), (num_labels,))
    mix_L, weight_CD, bias_C = (torch.zeros(shape, requires_grad=True) for shape in shapes)
    optimizer = torch.optim.LBFGS([mix_L, weight_CD, bias_C], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def predict(edges_LND: Tensor) -> Tensor:
        return F.linear(torch.einsum("l,lnd->nd", mix_L.softmax(0), edges_LND), weight_CD, bias_C)

    def closure() -> Tensor:
        optimizer.zero_grad()
        losses_NC = F.binary_cross_entropy_with_logits(predict(edges_LND), targets_NC, reduction="none")
        loss = losses_NC.sum(1).mean() + _WEIGHT_DECAY * (weight_CD.square().sum() + mix_L.square().sum())
        loss.backward()
        return loss

    optimizer.step(closure)
    return predict, mix_L.detach().softmax(0).tolist()
