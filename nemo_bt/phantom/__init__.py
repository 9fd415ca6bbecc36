"""A CUDA device of shapes alone: the training run that a GPU would make, traced on a CPU.

docs/design/phantom.md tells what that shows, and what not. With `numbers` it computes too.

Read `start` (settings -> a process of its own -> a record), `spec` (what that process, `__main__`, is told), `run`
(what it does), `record` (what comes out), `watch` (phases of a step), `mode` (every operation of torch), `ledger`
(bytes alive, waits, kernels), `flops`, `messages` (process groups that send nothing), `places` (where in the source).
`cuda` stands for torch.cuda, `compiled` for torch.compile; `build` compiles the device, device.cpp.
`transformer_engine` runs Transformer Engine's own Python, which `wheel` fetches, over the shapes of its kernels:
`te_types`, `te_shapes`, `te_gemm`, `te_norm`, `te_quantize`, `te_attention`, `te_optimizer`. `absent` stands for
packages that a CPU has not; `megatron` has the few places of Megatron that reach past torch.

May import `training`, what is below it, and `gpu_setup`.
"""
