"""The Megatron GPT on a pair stream, with its reward head, and the NeMo model around it.

Read `reward_model` (what NeMo's Trainer calls), `reward_gpt` (stream -> rewards), `loss_reduction` (rewards -> loss and
sums), `config`, `layers` (which modules a layer is built from), `attention/`. `load` fills in weights, `lora` adds
adapters, `balance` is the loss that balances experts, and `rotary` and `transformer_engine` are what their names say.

Importing a module here imports NeMo or Megatron. May import `batching`, `config`, `cpu`, `pretrained`, `loss` and
`metrics`.
"""
