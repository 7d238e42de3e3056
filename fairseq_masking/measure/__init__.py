"""The papers' claims, measured on checkpoints: gradient variance, information, FLOPs, AMOS's adversary."""

from typing import Any

# Of --corruption: shares of the predicted tokens that stay and that become random ones.
CORRUPTIONS: dict[str, dict[str, Any]] = {
    "mask": {"leave_unmasked_prob": 0.0, "random_token_prob": 0.0},
    "bert": {"leave_unmasked_prob": 0.1, "random_token_prob": 0.1},
}
