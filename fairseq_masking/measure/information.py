"""How much a layer's states of [MASK]s say about the tokens that were hidden: mutual information, in nats.

The states are clustered by mini-batch k-means; the estimate is that between the cluster and the token.
Source: 2211.04898, Section 4.2 and Figure 4; Voita et al. 2019 (1909.01380), Section 4.
Shapes: N states, D width, V symbols.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import mutual_info_score
from tqdm import tqdm

from fairseq_masking.checkpoints.hub import HubInterface
from fairseq_masking.corpus.dictionary import masking_vocabulary
from fairseq_masking.errors import UserError
from fairseq_masking.figures.figure import Curves, Panel, plot_panels
from fairseq_masking.masking import Kind
from fairseq_masking.ops import gather_positions

__all__ = [
    "LayerInformation", "collect_states", "information_rows", "layer_information", "most_frequent", "plot_information",
]  # fmt: skip

Integers = npt.NDArray[np.int64]

# Sculley 2010 takes batches of 1,000 or more; with fewer than a few a cluster, clusters die.
_BATCH_SIZE = 4096


class LayerInformation(NamedTuple):
    """What the states of one layer say, in nats.

    ``chance`` is the same with the tokens shuffled: what the estimate gives where there is no information, as the
    number of states is limited. It is not subtracted.
    """

    information: float  # mutual information of cluster and token
    chance: float
    num_clusters: int  # clusters that hold a state


def most_frequent(counts_V: Integers, count: int, *, never: npt.NDArray[np.bool_]) -> Integers:
    """Return the ``count`` most frequent tokens but those of ``never``, ascending; fewer where no more occur."""
    counts_V = counts_V * ~never
    best = np.argsort(-counts_V, kind="stable")[:count]
    return np.sort(best[counts_V[best] > 0])


def layer_information(
    states_ND: npt.NDArray[np.float32], tokens_N: Integers, num_clusters: int, *, seed: int
) -> LayerInformation:
    """Cluster the states of a layer and compare with the hidden tokens; fewer states are a ``UserError``."""
    if not 2 <= num_clusters <= len(states_ND):
        raise UserError(
            f"--clusters {num_clusters}: there are {len(states_ND)} states, so 2 to {len(states_ND)} clusters"
            " are possible; raise --states or lower --clusters"
        )
    means = MiniBatchKMeans(num_clusters, batch_size=_BATCH_SIZE, n_init=1, random_state=seed, reassignment_ratio=0.0)
    clusters_N = means.fit_predict(states_ND)
    shuffled_N = np.random.default_rng(seed).permutation(tokens_N)
    information, chance = (float(mutual_info_score(labels_N, clusters_N)) for labels_N in (tokens_N, shuffled_N))
    return LayerInformation(information, chance, len(np.unique(clusters_N)))


@torch.no_grad()
def collect_states(
    hub: HubInterface, data: Path, batches: Any, *, num_states: int, num_frequent: int
) -> tuple[list[npt.NDArray[np.float32]], Integers]:
    """Return states ``[N, D]`` of [MASK]s, a layer each, and the tokens ``[N]`` that they hide.

    Batches, ``net_input`` of design.md, are taken until there are ``num_states`` that hide one of the ``num_frequent``
    most frequent tokens.
    """
    special_V = masking_vocabulary(hub.dictionary, folder=data).special
    counts_V = np.array(hub.dictionary.count[: len(hub.dictionary)], dtype=np.int64)
    frequent = torch.from_numpy(most_frequent(counts_V, num_frequent, never=special_V))
    states, tokens, total = [], [], 0
    for net_input in batches:
        masked = net_input["positions"][net_input["kinds"] == Kind.MASK]
        hidden = gather_positions(net_input["src_tokens"], masked)
        chosen = torch.isin(hidden, frequent).nonzero().flatten()[: num_states - total]
        states.append([state[chosen].float().numpy() for state in hub.model.mask_states(**net_input)])
        tokens.append(hidden[chosen].numpy())
        total += len(chosen)
        if total == num_states:
            break
    return [np.concatenate(layer) for layer in zip(*states, strict=True)], np.concatenate(tokens)


def information_rows(
    name: str, states: Sequence[npt.NDArray[np.float32]], tokens_N: Integers, num_clusters: int, *, seed: int
) -> list[dict[str, Any]]:
    """Return a row for each layer of a model: information, chance, the tokens' entropy, counts."""
    entropy = float(mutual_info_score(tokens_N, tokens_N))
    taken = {"entropy": entropy, "states": len(tokens_N), "tokens": len(np.unique(tokens_N))}
    rows = []
    for layer, states_ND in enumerate(tqdm(states, unit="layer", desc=name, disable=None)):
        found = layer_information(states_ND, tokens_N, num_clusters, seed=seed)
        rows.append({"model": name, "layer": layer, **found._asdict(), **taken})
    return rows


def plot_information(rows: Sequence[dict[str, Any]], path: Path, *, title: str) -> None:
    """Draw information by layer, a line for each model, dotted what chance gives."""
    curves: dict[str, Curves] = {}
    for name in dict.fromkeys(row["model"] for row in rows):
        columns = {key: np.array([row[key] for row in rows if row["model"] == name]) for key in rows[0]}
        curves[name] = {key: (columns["layer"], columns[key]) for key in ("information", "chance")}
    panel = Panel(
        "mutual information with the hidden token, nats",
        [("information", "o-", ""), ("chance", ":", "chance")],
        *(rows[0]["entropy"], "entropy of the tokens", "layer (0: where the [MASK]s enter)"),
    )
    plot_panels(curves, [panel], path, title=title)
