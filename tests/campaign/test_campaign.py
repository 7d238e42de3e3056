"""Sixty broken inputs of the campaign's, the same every time; ``make campaign`` has them all."""

import sys
from collections import Counter
from pathlib import Path

from commands import run_command

sys.path.append(str(Path(__file__).parent))

from rules import cases

SIXTY = """
import runpy, sys
sys.argv = [{path!r}, "--sample", "60", "--seed", "19"]
runpy.run_path({path!r}, run_name="__main__")
"""


def test_there_are_a_thousand_cases_and_each_has_its_name():
    names = Counter(case.name for case in cases())
    assert len(names) >= 1000 and set(names.values()) == {1}


def test_sixty_of_them_end_in_one_line_each():
    """In a process of its own, which forks once a case."""
    program = SIXTY.format(path=str(Path(__file__).with_name("run.py")))
    done = run_command(["python -c", program], timeout=3000)
    assert done.returncode == 0 and done.stdout.strip().endswith("60 cases: 60 line"), done.stdout[-4000:]
