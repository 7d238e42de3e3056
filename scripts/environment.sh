#!/usr/bin/env bash
# Makes .venv in the repository's root with all that the plugin, its tests and its tools need. A finished
# environment is reused; one that was left unfinished is made anew; changed requirements are installed on top.
#
#   bash scripts/environment.sh            (PYTHON=/path/to/python3.12 chooses the interpreter)
#   bash scripts/environment.sh --runtime  what the plugin needs alone, in a third of the time; the rest comes on top
set -euo pipefail

TORCH=torch==2.13.0 # pinned, with pip also first, or it may take another build that fairseq's dependencies ask for

if [[ "${1:-}" == --help || "${1:-}" == -h ]]; then
  sed -n '2,6p' "$0" | sed 's/^# \{0,1\}//'
  exit 0
fi

runtime=
if [[ "${1:-}" == --runtime ]]; then
  runtime=_runtime
  shift
fi
if [[ $# -gt 0 ]]; then
  echo "environment: error: unknown option $1 (see --help)" >&2
  exit 2
fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
stamp=.venv/.complete
started=.venv/.unfinished
wanted=$(cat setup.py scripts/environment.sh <(echo "$root") | sha256sum | cut -d ' ' -f 1)

works() { # a Python that ve-fairseq has wheels for and that can make environments
  "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

find_python() {
  local candidates=("${PYTHON:-}")
  if [[ -z "${PYTHON:-}" ]]; then
    candidates=(python3.12 python3.11 python3 python /usr/bin/python3.12 /usr/bin/python3.11 /usr/bin/python3
      /usr/local/bin/python3.12 /usr/local/bin/python3.11)
  fi
  for candidate in "${candidates[@]}"; do
    if works "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  local found=${PYTHON:-python3}
  echo "environment: error: $found is $("$found" --version 2>&1 | head -n 1 || true); this project needs Python" \
    "3.11 or 3.12 with venv: install one, then make PYTHON=/path/to/python3.12 ..." >&2
  return 1
}

for made in "$stamp" ${runtime:+"$stamp$runtime"}; do
  if [[ -f "$made" && "$(cat "$made")" == "$wanted" ]]; then
    exit 0
  fi
done

if [[ -e "$started" ]] || { [[ -e .venv ]] && ! works .venv/bin/python; }; then
  echo "environment: .venv is unfinished or broken, making it anew"
  rm -rf .venv
fi
if [[ ! -e .venv ]]; then
  python=$(find_python)
  echo "environment: .venv from $("$python" --version)"
  mkdir .venv
  touch "$started"
  "$python" -m venv .venv
fi
rm -f "$stamp" "$stamp"_runtime
touch "$started"

# Bytecode of what is used follows below: of all that lies there it takes pip longer than the installation.
pip() { PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip "$1" --quiet "${@:2}"; }

# uv takes a fifth of pip's CPU time. It reads nothing of pip's settings (mirrors, certificates), so they are handed on.
settings=$(.venv/bin/python -m pip config list 2>/dev/null || true)
hand_on() { # a variable of uv's, pip's name of the setting
  local value
  value=$(sed -n "s/^[^=]*\.$2='\(.*\)'$/\1/p" <<<"$settings" | tail -n 1)
  [[ -z "$value" || -n "${!1:-}" ]] || export "$1=${value//\\n/ }"
}
hand_on UV_DEFAULT_INDEX index-url
hand_on UV_INDEX extra-index-url
hand_on UV_FIND_LINKS find-links
hand_on UV_CONSTRAINT constraint
hand_on UV_INSECURE_HOST trusted-host
hand_on SSL_CERT_FILE cert
export UV_INDEX_STRATEGY=unsafe-best-match # pip's: the newest of all indexes
install() {
  if [[ -x .venv/bin/uv ]]; then
    .venv/bin/uv pip install --quiet --python .venv/bin/python "$@" 2>.venv/uv.txt && return
    echo "environment: uv could not install this ($(tail -n 1 .venv/uv.txt)), pip tries"
    rm .venv/bin/uv
  fi
  pip install --no-compile "$@"
}

echo "environment: installing ($([[ -n $runtime ]] && echo half a minute to two || echo one to four) minutes the first time)"
pip install --no-compile uv 2>.venv/uv.txt || echo "environment: no uv here, pip takes a little longer"
install setuptools wheel
[[ -x .venv/bin/uv ]] || install "$TORCH"
extras=$([[ -n $runtime ]] || echo '*EXTRAS["test"],')
.venv/bin/python -c "from setup import EXTRAS, REQUIREMENTS; print(*REQUIREMENTS, $extras sep='\n')" >.venv/requirements.txt
install "$TORCH" -r .venv/requirements.txt

# fairseq's dependencies bring one for CUDA: transformers would import it and fail.
.venv/bin/python -c 'import torchaudio' >/dev/null 2>&1 ||
  pip uninstall --yes torchaudio

# Instead of pip install -e, under which Hydra does not find its plugins: the two folders that Python imports from.
site_packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
printf '%s\n' "$root" "$root/fairseq_masking/hydra" >"$site_packages/fairseq_masking.pth"
# And instead of its console script:
printf '%s\n' '#!/bin/sh' 'exec "$(dirname "$0")/python" -m fairseq_masking "$@"' >.venv/bin/fairseq-masking
chmod +x .venv/bin/fairseq-masking

# Written where the user's variable forbids it, too, or every command would compile all its imports.
if [[ -n $runtime ]]; then
  imports='import fairseq_cli.train, matplotlib.pyplot, fairseq_masking.registration'
  PYTHONDONTWRITEBYTECODE='' .venv/bin/python -c "$imports" >/dev/null 2>.venv/imports.txt || {
    echo "environment: error: what was installed does not load: $(tail -n 1 .venv/imports.txt)" >&2
    exit 1
  }
else
  .venv/bin/python -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 || true # some packages bring templates
fi

rm -f "$started"
echo "$wanted" >"$stamp$runtime"
