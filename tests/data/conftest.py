"""Fixtures that other folders use too."""

from binarised_corpus import *  # noqa: F403
