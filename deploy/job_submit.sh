#!/usr/bin/env bash
# Submit a study to a Ray cluster that is up, and follow its output.
#
#   RAY_ADDRESS=http://HEAD:8265 RUN_DIR=/shared/gpt2_small \
#       deploy/job_submit.sh experiment=gpt2_small cluster.workers=8
#
# Arguments are those of jobs/run.py. The same command again continues the run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

: "${RAY_ADDRESS:?set it to the address of the dashboard of the head node, http://HEAD:8265}"
: "${RUN_DIR:?set it to a directory that every node sees, or to s3://... or gs://...}"

exec ray job submit --address "$RAY_ADDRESS" --runtime-env deploy/runtime_env.yaml -- \
    python jobs/run.py cluster.address=auto run.dir="$RUN_DIR" "$@"
