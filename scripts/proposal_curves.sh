#!/usr/bin/env bash
# How MAP-Net's proposal network learned, from training logs; --help lists the options.
set -euo pipefail

# shellcheck source=command.bash
. "$(dirname "${BASH_SOURCE[0]}")/command.bash" proposal_curves "$@"
