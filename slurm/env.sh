# The only file that a site changes. Every job sources it, from the folder that you submit from.
# A copy is used by `NEMO_BT_ENV=path/to/env.sh sbatch slurm/train.sbatch ...`

# Account, partition and devices belong to sbatch. It reads them from the environment of the shell that you submit from:
# fill in, and `source slurm/env.sh` there. CPUs for each task and memory have no such variable: add them to sbatch's
# words (--cpus-per-task=12 --mem=0), or as #SBATCH lines.
#   export SBATCH_ACCOUNT=my-account SBATCH_PARTITION=gpu SBATCH_GPUS_PER_NODE=8

PYTHON=()
SRUN_OPTIONS=()
# PYTHON starts Python in a task, SRUN_OPTIONS are srun's. A container is one of these; folders are the job's own, and
# those of models, data and caches, and home stays outside:
#   PYTHON=(apptainer exec --nv --no-home --pwd "$PWD" --bind "$PWD,/shared" nemo_bt.sif python3)
# With pyxis and enroot:
#   SRUN_OPTIONS=(--container-image="$PWD/nemo_bt.sqsh" --container-mounts="$PWD:$PWD,/shared:/shared")
#   SRUN_OPTIONS+=(--container-workdir="$PWD" --no-container-mount-home)

# These are caches, which every node sees: tokenised data, a folder for each user; and what `nemo-bt fetch` brought.
#   export NEMO_BT_CACHE="/shared/$USER/nemo_bt" HF_HOME=/shared/hub HF_HUB_OFFLINE=1

# These are modules, and the network of the cluster:
#   module load cuda
#   export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0
#   export MASTER_ADDR=10.0.0.1   # an address of the job's first node, where names of nodes do not resolve

# Without a container, the virtual environment of the clone that this file lies in, or of the folder that you submit
# from; all nodes see it.
if ((${#PYTHON[@]} == 0)); then
  PYTHON=(python3)
  for clone in "$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)" "$PWD"; do
    if [[ -x $clone/.venv/bin/python && "${SRUN_OPTIONS[*]}" != *--container-* ]]; then
      PYTHON=("$clone/.venv/bin/python")
      break
    fi
  done
fi
