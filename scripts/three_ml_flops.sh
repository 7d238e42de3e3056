#!/usr/bin/env bash
# FLOPs of pre-training with 3ML beside plain masking (2211.04898, Appendix D); --help lists the options.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=python
if [ -x "$repo/.venv/bin/python" ]; then
    python=$repo/.venv/bin/python
fi
PYTHONPATH="$repo${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m fairseq_masking.cli.three_ml_flops "$@"
