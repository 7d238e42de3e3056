#!/usr/bin/env bash
# Mutual information of [MASK] states and hidden tokens by layer (2211.04898, Figure 4); --help lists the options.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=python
if [ -x "$repo/.venv/bin/python" ]; then
    python=$repo/.venv/bin/python
fi
PYTHONPATH="$repo${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m fairseq_masking.cli.mutual_information "$@"
