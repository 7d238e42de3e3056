"""How many positions are masked, and how many of them get which corruption (design decision 1).

Every count is exact and depends on lengths alone, so that full blocks give static shapes.

Rounding is half up, ``floor(x + 0.5)``, of the product rounded to 9 decimals first. Binary floating point
puts some products a hair beside the half that they are in decimals (``0.15 * 510`` is 76.5 and rounds up,
``0.145 * 100`` is 14.499999999999998 and would round down without that step); 9 decimals are far finer than
any rate a person writes and far coarser than the error of one product.
"""

import math

__all__ = ["corruption_counts", "num_masked", "round_half_up"]


def round_half_up(value: float) -> int:
    """Rounds to the nearest integer, halves up, after removing the noise of binary fractions."""
    return math.floor(round(value, 9) + 0.5)


def num_masked(num_tokens: int, num_maskable: int, mask_prob: float, num_splits: int = 1) -> int:
    """The number of masked positions k (the paper's tau) in every split of one sequence.

    Args:
        num_tokens: n, tokens of the sequence without the outer <s> and </s>; separators inside count.
        num_maskable: m, those of them that are no special.
        mask_prob: the masking rate p.
        num_splits: K disjoint splits that must all fit into the m positions.

    Returns:
        ``min(max(1, round(p * n)), floor(m / K))``; 0 where m < K, a sequence that is skipped.
    """
    return min(max(1, round_half_up(mask_prob * num_tokens)), num_maskable // num_splits)


def corruption_counts(
    num_positions: int, leave_unmasked_prob: float, random_token_prob: float
) -> tuple[int, int, int]:
    """Divides k masked positions into [MASK], random token and unchanged.

    Returns:
        The three counts in this order; they sum to ``num_positions``. Where nothing is to stay unchanged
        the rounding remainder becomes random tokens, and [MASK]s where there are none of those either.
    """
    num_mask = round_half_up((1.0 - leave_unmasked_prob - random_token_prob) * num_positions)
    rest = num_positions - num_mask
    if leave_unmasked_prob == 0.0:
        num_random = rest
    else:
        num_random = min(round_half_up(random_token_prob * num_positions), rest)
    return num_mask, num_random, rest - num_random
