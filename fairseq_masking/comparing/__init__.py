"""Objectives side by side on one corpus and one budget: runs, what they learned, and whether that is a difference."""
