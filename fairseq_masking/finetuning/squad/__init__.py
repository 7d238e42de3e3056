"""Extractive question answering on SQuAD 2.0."""
