"""From preference files to token ids.

Read the folders in the order of the data: `read` (files -> rows), `formats` (rows -> prompts with responses),
`tokenize` (chat template, tokenizer), `pairs` (which pairs, and which are bad), `store` (token ids on disk, and pair
sets). Here beside them: `inspect` (nemo-bt data show and stats), and `synthetic` and `train_tokenizer` for examples.

Each folder may import those before it; all of them `config`, `batching`, `launching`, `observability`,
`foreign` and `files`.
Nothing here imports NeMo or Megatron.
"""
