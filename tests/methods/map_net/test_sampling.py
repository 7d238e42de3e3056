"""Draws without replacement follow the proposal: against an enumeration of all ordered draws."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch

from fairseq_masking.methods.map_net.ragged import RaggedRows
from fairseq_masking.methods.map_net.sampling import (
    draw_replacements,
    gumbel_top_k,
    permutation_within_rows,
    propose_masks,
)

NUM_DRAWS = 40_000


def generator(device, seed=0):
    return torch.Generator(device).manual_seed(seed)


def chi_square_limit(degrees):
    """Exceeded once in about 30,000 draws (Wilson-Hilferty, z = 4)."""
    variance = 2.0 / (9.0 * degrees)
    return degrees * (1.0 - variance + 4.0 * np.sqrt(variance)) ** 3


def assert_follows(observed, expected):
    """Chi-square of counts against counts."""
    observed, expected = np.asarray(observed, float), np.asarray(expected, float)
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert statistic < chi_square_limit(len(expected) - 1), (statistic, len(expected))


def ordered_draws(probabilities, k):
    """The probability of every ordered draw of k columns without replacement, by the definition."""
    result = {}
    for draw in permutations(np.flatnonzero(probabilities), k):
        probability, left = 1.0, 1.0
        for column in draw:
            probability *= probabilities[column] / left
            left -= probabilities[column]
        result[tuple(int(column) for column in draw)] = probability
    assert sum(result.values()) == pytest.approx(1.0)
    return result


def layout_of(counts, device):
    counts = torch.tensor(counts, device=device)
    return RaggedRows.of(counts, num_values=int(counts.sum()), width=int(counts.max()))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_ordered_draws_and_inclusions_match_the_enumeration(k, device):
    probabilities = np.array([0.45, 0.05, 0.0, 0.25, 0.15, 0.1])  # one position may never be drawn
    expected = ordered_draws(probabilities, k)
    log_probs = torch.tensor(probabilities, device=device).float().log().expand(NUM_DRAWS, -1)
    columns = gumbel_top_k(log_probs, k, generator(device))
    assert columns.shape == (NUM_DRAWS, k) and columns.dtype == torch.int64
    found = Counter(map(tuple, columns.tolist()))
    assert set(found) <= set(expected), "never twice, never where nothing may be masked"
    common = [draw for draw in expected if NUM_DRAWS * expected[draw] >= 5]
    rest = NUM_DRAWS * (1.0 - sum(expected[draw] for draw in common))
    observed = [found[draw] for draw in common]
    if rest >= 5:
        assert_follows(
            [*observed, NUM_DRAWS - sum(observed)], [*(NUM_DRAWS * expected[draw] for draw in common), rest]
        )
    elif len(common) > 1:
        assert_follows(observed, [NUM_DRAWS * expected[draw] for draw in common])
    # Inclusion frequencies; their covariance is not that of a multinomial, so column by column.
    for column in range(6):
        share = sum(probability for draw, probability in expected.items() if column in draw)
        hits = sum(count for draw, count in found.items() if column in draw)
        assert abs(hits - NUM_DRAWS * share) <= 4.5 * np.sqrt(NUM_DRAWS * share * (1 - share)) + 1e-6


def test_a_constant_in_the_logarithms_changes_nothing(device):
    log_probs = torch.randn(50, 9, generator=generator(device), device=device)
    one = gumbel_top_k(log_probs, 4, generator(device, 5))
    assert torch.equal(one, gumbel_top_k(log_probs + 3.0, 4, generator(device, 5)))


def test_each_row_gets_its_own_number_and_nothing_forbidden(device):
    counts = [3, 0, 5, 1, 4]
    maskable = torch.rand(5, 12, generator=generator(device, 1), device=device) < 0.6
    maskable[:, :5] = True
    log_probs = torch.randn(5, 12, generator=generator(device, 2), device=device)
    log_probs = log_probs.masked_fill(~maskable, -torch.inf).log_softmax(1)
    layout = layout_of(counts, device)
    for seed in range(50):
        masks = propose_masks(log_probs, layout, generator(device, seed))
        assert maskable.flatten()[masks.positions_N].all()
        for row in range(5):
            drawn, placed = (flat[layout.rows_N == row].tolist() for flat in (masks.drawn_N, masks.positions_N))
            assert len(set(placed)) == counts[row] and sorted(placed) == sorted(drawn)
            assert all(position // 12 == row for position in placed)


def test_the_order_of_the_draws_is_forgotten(device):
    """The first of the kinds is [MASK]: the likeliest position must not stand there more often."""
    log_probs = torch.tensor([0.9, 0.04, 0.03, 0.02, 0.01], device=device).log().expand(NUM_DRAWS, -1)
    layout = layout_of([4] * NUM_DRAWS, device)
    masks = propose_masks(log_probs, layout, generator(device))
    assert (masks.drawn_N.view(-1, 4)[:, 0] % 5 == 0).float().mean() > 0.85, "it is drawn first"
    slots = (masks.positions_N.view(-1, 4) % 5 == 0).sum(0).tolist()
    assert_follows(slots, [sum(slots) / 4] * 4)


def test_permutations_are_uniform_and_stay_within_their_row(device):
    counts = [3, 0, 4, 1] * 6000
    layout = layout_of(counts, device)
    order = permutation_within_rows(layout, generator(device))
    assert torch.equal(layout.rows_N[order], layout.rows_N)
    assert torch.equal(order.sort().values, torch.arange(len(order), device=device))
    local = layout.pad(layout.slots_N[order], fill=-1)
    for size, start in ((3, 0), (4, 2)):
        found = Counter(map(tuple, local[start::4, :size].tolist()))
        number = len(list(permutations(range(size))))
        assert len(found) == number
        assert_follows(list(found.values()), [6000 / number] * number)


def test_same_seed_same_masks_other_seed_others(device):
    log_probs = torch.randn(8, 30, generator=generator(device), device=device)
    layout = layout_of([5] * 8, device)
    one, again, other = (propose_masks(log_probs, layout, generator(device, seed)) for seed in (1, 1, 2))
    assert torch.equal(one.positions_N, again.positions_N) and torch.equal(one.drawn_N, again.drawn_N)
    assert not torch.equal(one.drawn_N, other.drawn_N)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    propose_masks(log_probs, layout, generator(device))
    assert torch.equal(state, torch.get_rng_state()), "the global generator is left alone"


def test_replacements_are_mask_random_or_the_token(device):
    kinds = torch.tensor([0, 1, 2], dtype=torch.int8, device=device).repeat(NUM_DRAWS // 4)
    targets = torch.randint(4, 20, kinds.shape, generator=generator(device), device=device)
    allowed = torch.tensor([4, 5, 7, 9, 19], device=device)
    written = draw_replacements(targets, kinds, 44, allowed, generator(device, 1))
    assert (written[kinds == 0] == 44).all() and torch.equal(written[kinds == 2], targets[kinds == 2])
    found = Counter(written[kinds == 1].tolist())
    assert set(found) == set(allowed.tolist())
    assert_follows(list(found.values()), [sum(found.values()) / 5] * 5)


def test_nothing_to_draw(device):
    layout = RaggedRows.of(torch.zeros(2, dtype=torch.long, device=device), num_values=0, width=0)
    masks = propose_masks(torch.zeros(2, 6, device=device), layout, generator(device))
    assert masks.positions_N.shape == masks.drawn_N.shape == (0,)
