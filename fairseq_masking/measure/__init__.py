"""The papers' claims, measured on checkpoints: gradient variance, information, FLOPs, AMOS's adversary."""

# Of --corruption: shares of the predicted tokens that stay and that become random ones.
CORRUPTIONS = {"mask": (0.0, 0.0), "bert": (0.1, 0.1)}
