#!/usr/bin/env bash
# What AMOS puts in place of masked tokens, and what its discriminator says of it (2204.03243, Table 9); --help lists the options.
set -euo pipefail

# shellcheck source=command.bash
. "$(dirname "${BASH_SOURCE[0]}")/command.bash" show_replacements "$@"
