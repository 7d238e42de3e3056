"""AMOS (2204.03243): an adversarial mixture of generators, and a discriminator."""
