"""3ML (2211.04898): the [MASK]s enter after the encoder."""
