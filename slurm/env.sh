# The only file that a site changes. Every job sources it, from the folder that you submit from.
# A copy is used by `NEMO_BT_ENV=path/to/env.sh sbatch slurm/train.sbatch ...`

# Account, partition and devices belong to sbatch. It reads them from the environment of the shell that you submit from:
# fill in, and `source slurm/env.sh` there.
#   export SBATCH_ACCOUNT=my-account SBATCH_PARTITION=gpu SBATCH_GPUS_PER_NODE=8

# PYTHON starts Python in a task. This is a virtual environment that all nodes see:
PYTHON=(python3)
if [[ -x .venv/bin/python ]]; then PYTHON=("$PWD/.venv/bin/python"); fi
# This is a container instead:
#   PYTHON=(apptainer exec --nv --bind /data nemo_bt.sif python3)
# With pyxis srun starts it:
#   SRUN_OPTIONS=(--container-image=nemo_bt.sqsh --container-mounts=/data:/data)
SRUN_OPTIONS=()

# These are modules, and the network of the cluster:
#   module load cuda
#   export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0
#   export MASTER_ADDR=...   # where names of nodes do not resolve
