"""From preference files to token ids: rows -> tokenizer -> pairs. Imports neither NeMo nor Megatron."""
