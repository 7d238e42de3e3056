#!/usr/bin/env bash
# Scores of the majority class and of TF-IDF with logistic regression on prepared data; --help lists the options.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=python
if [ -x "$repo/.venv/bin/python" ]; then
    python=$repo/.venv/bin/python
fi
PYTHONPATH="$repo${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m fairseq_masking.cli.finetune_baselines "$@"
