"""The Megatron GPT on a pair stream, and the NeMo model around it. Importing a module here imports NeMo or Megatron."""
