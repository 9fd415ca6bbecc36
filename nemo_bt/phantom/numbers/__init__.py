"""The device with numbers: the same run, whose tensors have values too, computed by torch's kernels for CPUs.

Read `memory` (where values are), `mode` (operations of torch) with `replaced` (those that a CPU has not), `kernels`
(those of Transformer Engine) with `fp8` (its formats), `quantize`, `gemm`, `norm`, `attention` and `optimizer`, and
`seen` (what a run leaves behind).
"""
