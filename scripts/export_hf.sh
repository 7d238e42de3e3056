#!/usr/bin/env bash
# A checkpoint as a folder that Hugging Face transformers loads; --help lists the options.
set -euo pipefail

# shellcheck source=command.bash
. "$(dirname "${BASH_SOURCE[0]}")/command.bash" export_hf "$@"
