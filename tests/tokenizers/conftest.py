"""Fixtures that other folders use too."""

from text_corpora import *  # noqa: F403
