#!/usr/bin/env bash
# Where a checkpoint masks text, in the terminal and as an HTML page; --help lists the options.
set -euo pipefail

# shellcheck source=command.bash
. "$(dirname "${BASH_SOURCE[0]}")/command.bash" show_masks "$@"
