#!/usr/bin/env bash
# Raw text to the data folder that fairseq-train takes; --help lists the options.
set -euo pipefail

# shellcheck source=command.bash
. "$(dirname "${BASH_SOURCE[0]}")/command.bash" prepare_corpus "$@"
