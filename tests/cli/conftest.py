"""Fixtures that other folders use too."""

from tiny_problem import *  # noqa: F403
