# The only file that a site changes. Every job sources it, from the folder that you submit from.
# A copy is used by `NEMO_BT_ENV=path/to/env.sh sbatch slurm/train.sbatch ...`

# Account, partition and devices belong to sbatch. It reads them from the environment of the shell that you submit from:
# fill in, and `source slurm/env.sh` there.
#   export SBATCH_ACCOUNT=my-account SBATCH_PARTITION=gpu SBATCH_GPUS_PER_NODE=8

PYTHON=()
SRUN_OPTIONS=()
# PYTHON starts Python in a task, SRUN_OPTIONS are srun's. A container is one of these; folders are the job's own, and
# those of models and data, and home stays outside:
#   PYTHON=(apptainer exec --nv --no-home --pwd "$PWD" --bind "$PWD,/data" nemo_bt.sif python3)
# With pyxis and enroot:
#   SRUN_OPTIONS=(--container-image="$PWD/nemo_bt.sqsh" --container-mounts="$PWD:$PWD,/data:/data")
#   SRUN_OPTIONS+=(--container-workdir="$PWD" --no-container-mount-home)

# These are modules, and the network of the cluster:
#   module load cuda
#   export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0
#   export MASTER_ADDR=...   # where names of nodes do not resolve

# Without a container, the virtual environment of this folder, which all nodes see.
if ((${#PYTHON[@]} == 0)); then
  PYTHON=(python3)
  if [[ -x .venv/bin/python && "${SRUN_OPTIONS[*]}" != *--container-* ]]; then PYTHON=("$PWD/.venv/bin/python"); fi
fi
