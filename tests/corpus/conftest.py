"""Fixtures that other folders use too."""

from binarised_corpus import *  # noqa: F403
from text_corpora import *  # noqa: F403
