"""Laws over a sequence's positions: what a mask drawn from one weighs, and the laws of hard positions.

A law is a distribution p over the maskable positions; a mask is k draws from it, each renormalised over what
is left, as MAP-Net draws (2008.05333, Section 3.3). The uniform law is one of them. Its probability of a
mask over another law's is the weight with which the other's masks estimate its expectations (Eq. 5):

    set      w(S) = 1 / C(n, k) / P(S), P(S) over all k! orders: Eq. 5 as printed, whose x^M has no order
    ordered  the same for draws in their order (spec/map_net.md); its mean over the draws that give S is w(S)
    clipped  CLIP((1/n)^k / prod p, 1 - eps, 1 + eps), what MAP-Net trains with; biased
    none     1

What MAP-Net's proposal is to be proportional to is how hard a position is for a model, over uniform masks M
of k positions that contain i (Section 3.3 replaces the second by the first; Eq. 7-9):

    loss           l_i = E[-log P(x_i | x^M) | i in M]
    gradient norm  sqrt(E[||grad of -log P(x_i | x^M)||**2 | i in M])

Masks are taken in rounds that cover every position (``covering_masks``), so all are measured equally often.
Shapes: T tokens of a sequence, n maskable, k masked positions, M masks, N = M * k, Q nodes of a quadrature.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fairseq_masking.masking import MaskedItem
from fairseq_masking.measure.gradient_variance.draws import Tokens
from fairseq_masking.measure.gradient_variance.gradients import mask_losses
from fairseq_masking.methods.map_net.ragged import RaggedRows
from fairseq_masking.methods.map_net.sampling import clip_log_weight, log_weight_exact, log_weight_paper

__all__ = [
    "WEIGHTINGS", "finite_weights", "gradient_norms_of_positions", "law_proportional_to", "losses_of_positions",
    "mask_weights", "ordered_log_weights", "set_log_weights",
]  # fmt: skip

WEIGHTINGS = ("set", "ordered", "clipped", "none")

_NUM_NODES = 512
_NEGLIGIBLE = 45.0  # nats below the integrand's peak
# Weights stop at e^300, so that what is made of them stays finite: of a law that all but excludes a position,
# one only learns that its variance is beyond any use.
_LARGEST = 300.0
_LEAST = 1e-6  # of the mean: smallest share of a position, so that no mask is impossible
_ROWS = 64  # of a batch

Floats = npt.NDArray[np.float64]


def law_proportional_to(values_T: Floats, maskable_T: npt.NDArray[np.bool_]) -> Floats:
    """Return log p ``[T]`` of p proportional to ``values_T`` at maskable positions, -inf at the others."""
    values_n = values_T[maskable_T]
    values_n = np.maximum(values_n, _LEAST * values_n.mean())
    log_p_T = np.full(len(values_T), -np.inf)
    log_p_T[maskable_T] = np.log(values_n / values_n.sum())
    return log_p_T


@torch.no_grad()
def losses_of_positions(model: nn.Module, tokens_T: Tokens, masks: MaskedItem) -> Floats:
    """Return the mean cross-entropy ``[T]`` (nats) of each position over the masks with it, NaN without."""
    batches = [slice(start, start + _ROWS) for start in range(0, len(masks.columns), _ROWS)]
    losses = [mask_losses(model, tokens_T, masks, rows).double().cpu().numpy() for rows in batches]
    return _mean_by_column(masks.columns, np.concatenate(losses), len(tokens_T))


def gradient_norms_of_positions(
    model: nn.Module, tokens_T: Tokens, masks: MaskedItem, parameters: Sequence[nn.Parameter]
) -> Floats:
    """Return the root mean square ``[T]`` of each position's gradient norm, NaN where no mask contains it."""
    squares_Mk = np.empty(masks.columns.shape)
    for mask in range(len(squares_Mk)):
        for place, loss in enumerate(mask_losses(model, tokens_T, masks, slice(mask, mask + 1))):
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
            norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradients if g is not None]
            squares_Mk[mask, place] = float(torch.stack(norms).square().sum())
    return np.sqrt(_mean_by_column(masks.columns, squares_Mk, len(tokens_T)))


def mask_weights(log_p_T: Floats, columns_Mk: npt.NDArray[np.int64], clip: float) -> dict[str, Floats]:
    """Return the weight ``[M]`` of each mask, in the order of its draws, for each of ``WEIGHTINGS``."""
    return {
        "set": finite_weights(set_log_weights(log_p_T, columns_Mk)),
        "ordered": finite_weights(ordered_log_weights(log_p_T, columns_Mk)),
        "clipped": clip_log_weight(log_weight_paper(*_flat(log_p_T, columns_Mk)), clip).numpy(),
        "none": np.ones(len(columns_Mk)),
    }


def finite_weights(log_weights: Floats) -> Floats:
    """Return the weights, at most e^300."""
    return np.exp(np.minimum(log_weights, _LARGEST))


def ordered_log_weights(log_p_T: Floats, columns_Mk: npt.NDArray[np.int64]) -> Floats:
    """Return the log ``[M]`` of the weight ``ordered``."""
    return log_weight_exact(*_flat(log_p_T, columns_Mk)).numpy()


def set_log_weights(log_p_T: Floats, columns_Mk: npt.NDArray[np.int64]) -> Floats:
    """Return the log ``[M]`` of the weight ``set``, by a one-dimensional integral instead of k! terms.

    Draws without replacement are the order of arrival of independent exponential clocks with rates p_i. The
    set S comes first if all its clocks ring before the first of the others, whose rates sum to R:

        P(S) = int_0^inf R exp(-R t) prod_{i in S} (1 - exp(-p_i t)) dt

    With t = exp(s) the logarithm of the integrand is concave in s and falls at least linearly on both sides,
    where the trapezoidal rule converges exponentially.
    """
    maskable_T = log_p_T > -np.inf
    num_maskable, num_masked = int(maskable_T.sum()), columns_Mk.shape[1]
    if num_masked == num_maskable:
        return np.zeros(len(columns_Mk))
    p_T = np.exp(log_p_T)
    drawn_Mk = p_T[columns_Mk]
    rest_MT = np.tile(p_T, (len(columns_Mk), 1))
    np.put_along_axis(rest_MT, columns_Mk, 0.0, axis=1)
    rest_M = rest_MT.sum(1)  # summed, not 1 - drawn: the difference may cancel

    # A coarse grid from far before the first clock to far behind the last, then a fine one around the peak.
    coarse_Q = np.arange(-np.log(p_T[maskable_T].max()) - 50.0, -np.log(p_T[maskable_T].min()) + 5.0, 0.25)
    coarse_MQ = _log_integrand(np.tile(coarse_Q, (len(columns_Mk), 1)), drawn_Mk, rest_M)
    kept_MQ = coarse_MQ > coarse_MQ.max(1, keepdims=True) - _NEGLIGIBLE
    low_M = coarse_Q[kept_MQ.argmax(1)] - 0.25
    high_M = coarse_Q[kept_MQ.shape[1] - 1 - kept_MQ[:, ::-1].argmax(1)] + 0.25
    nodes_MQ = np.linspace(low_M, high_M, _NUM_NODES, axis=1)
    log_MQ = _log_integrand(nodes_MQ, drawn_Mk, rest_M)
    step_M = (high_M - low_M) / (_NUM_NODES - 1)
    log_probability_M = np.logaddexp.reduce(log_MQ, axis=1) + np.log(step_M)
    return -math.log(math.comb(num_maskable, num_masked)) - log_probability_M


def _log_integrand(s_MQ: Floats, drawn_Mk: Floats, rest_M: Floats) -> Floats:
    """log of R exp(-R t) prod (1 - exp(-p t)) dt / ds at t = exp(s)."""
    t_MQ = np.exp(s_MQ)
    total_MQ = np.log(rest_M)[:, None] + s_MQ - rest_M[:, None] * t_MQ
    for drawn_M in drawn_Mk.T:  # k terms one by one: [M, Q, k] would be large
        total_MQ += np.log(-np.expm1(-drawn_M[:, None] * t_MQ))
    return total_MQ


def _flat(log_p_T: Floats, columns_Mk: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor, RaggedRows]:
    """The arguments of ``map_net.sampling``'s weights for masks that are all of one sequence."""
    num_masks, num_masked = columns_Mk.shape
    log_p_MT = torch.from_numpy(log_p_T).repeat(num_masks, 1)
    drawn_N = torch.from_numpy((np.arange(num_masks)[:, None] * len(log_p_T) + columns_Mk).ravel())
    layout = RaggedRows.of(torch.full((num_masks,), num_masked), num_values=num_masks * num_masked, width=num_masked)
    return log_p_MT, drawn_N, layout


def _mean_by_column(columns_Mk: npt.NDArray[np.int64], values: Floats, length: int) -> Floats:
    sums_T = np.bincount(columns_Mk.ravel(), values.ravel(), length)
    with np.errstate(invalid="ignore"):
        return sums_T / np.bincount(columns_Mk.ravel(), minlength=length)
