#!/usr/bin/env bash
# A checkpoint as a folder that Hugging Face transformers loads; --help lists the options.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=python
if [ -x "$repo/.venv/bin/python" ]; then
    python=$repo/.venv/bin/python
fi
PYTHONPATH="$repo${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m fairseq_masking.cli.export_hf "$@"
