"""Fully-explored MLM (2010.06040): K masks of a sequence that never overlap."""
