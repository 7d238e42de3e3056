"""Labelled tasks: their data, fine-tuning runs by the papers' protocols, scores and predictions."""
