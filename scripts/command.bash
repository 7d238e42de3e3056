# Sourced as "command.bash NAME OPTIONS...": becomes the command NAME of fairseq_masking.cli, with .venv's Python where
# there is one.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=python
[ ! -x "$repo/.venv/bin/python" ] || python=$repo/.venv/bin/python
PYTHONPATH="$repo${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m "fairseq_masking.cli.$1" "${@:2}"
