"""The one command: its list of verbs, and readers that leave early."""

import os
import subprocess
import sys

import pytest

from fairseq_masking.cli.main import VERBS, main


def test_verbs_are_listed(capsys):
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {verb} " in listed for verb in VERBS)
    assert main(["measure"]) == 2 and main(["measure", "--help"]) == 0
    listed = capsys.readouterr().out
    assert "measure flops" in listed and "prepare corpus" not in listed
    assert main(["prepare", "nothing"]) == 2
    assert "no verb 'prepare nothing'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["curves", "--help"]])
def test_a_reader_that_leaves_is_no_error(arguments):
    """As ``| head`` does: nobody reads what is printed, from a buffer, as users have it, at the end."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "fairseq_masking", *arguments]
    finished = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    os.close(writing)
    assert (finished.returncode, finished.stderr) == (0, "")
