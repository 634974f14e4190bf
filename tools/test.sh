#!/usr/bin/env bash
# All tests: the style, every notebook from its first to its last cell, then tests/. Used by the README and by .ci/run.
#   bash tools/test.sh                         everything
#   bash tools/test.sh imaging/04_projector    one notebook (its name in nbs/)
#   python -m pytest -m "not slow"             what is quick of tests/
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ $# -gt 0 ]; then
    for name in "$@"; do nbdev_test --path "nbs/$name.ipynb" --do_print; done
    exit
fi
ruff check nbs tests tools
ruff format --check nbs tests tools
# Tutorials at their small size, unless asked otherwise: CRYOFORMER_TUTORIAL_SIZE=full bash tools/test.sh
export CRYOFORMER_TUTORIAL_SIZE=${CRYOFORMER_TUTORIAL_SIZE:-small}
# One thread a worker: two workers with a thread pool each disturb one another badly.
OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 nbdev_test --n_workers 2
echo "notebooks: all passed"
exec python -m pytest -q tests
