"""Programs of others, each in an environment of its own: what they save is read here, what is exported is read there.

`requirements` has the environments, which `make test-interop` makes; `environment` finds them and runs in them what
`foreign` has, without a line of nemo_bt but for what puts the CPU in CUDA's place; `ours` has what their numbers are
compared with.
"""
