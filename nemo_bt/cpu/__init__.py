"""What makes NeMo and Megatron run on a machine without a GPU.

Read `device` (each redirection names the line of NeMo or Megatron that needs it), `adam` (an optimizer that
checkpoints as TE's FusedAdam does), `kernels` (products and norms in blocks that fit caches).

May import nothing of nemo_bt.
"""
