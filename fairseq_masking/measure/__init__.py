"""The papers' measurements on checkpoints."""
