#!/bin/bash
# One fit over several nodes under SLURM; the same line starts it and resumes it after a requeue:
#   sbatch --nodes 4 configs/cluster/slurm.sh configs/jet_nemotron_2b/common.yaml configs/jet_nemotron_2b/stage1.yaml
# SIGTERM reaches the fit three minutes before the time limit: it saves a checkpoint, and the job is queued again.
#SBATCH --job-name=jetlit
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

configs=()
for file in "$@"; do
  configs+=(--config "$file")
done

status=0
srun jetlit fit "${configs[@]}" --config configs/strategy/fsdp2.yaml \
  --trainer.strategy.data_parallel_size "$SLURM_NTASKS" --trainer.num_nodes "$SLURM_NNODES" \
  --trainer.devices "$SLURM_NTASKS_PER_NODE" --ckpt_path last || status=$?

# 143: ended by SIGTERM, with a checkpoint.
if [ "$status" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
fi
exit "$status"
