#!/usr/bin/env bash
# Mutual information of [MASK] states and hidden tokens by layer (2211.04898, Figure 4); --help lists the options.
set -euo pipefail

# shellcheck source=command.bash
. "$(dirname "${BASH_SOURCE[0]}")/command.bash" mutual_information "$@"
