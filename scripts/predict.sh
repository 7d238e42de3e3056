#!/usr/bin/env bash
# A fine-tuned checkpoint's predictions (GLUE submission files, SQuAD's JSON) and scores; --help lists the options.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=python
if [ -x "$repo/.venv/bin/python" ]; then
    python=$repo/.venv/bin/python
fi
PYTHONPATH="$repo${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m fairseq_masking.cli.predict "$@"
