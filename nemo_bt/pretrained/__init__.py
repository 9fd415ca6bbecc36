"""Models on disk: what they are, and their tensors, read and written in pieces. Nothing in them runs.

Read `resolve` (a path or hub id -> a model -> its initial weights), `hf_config` (Hugging Face's configuration, with
`rope_parameters` of transformers 5, `field_types` and `known_fields`), `architecture` (what it says of a model, in one
object) and `families`, `names` and `fused` (which tensor of the one makes which of the other), `convert`, `check`,
`head`, `attributes` (the head that settings ask for, and one with several rows), `two_layer_head` (which folder has
one), `two_layer_classifier` (for transformers), `trained_head` (whether config.json tells of these weights),
`adapters`. `source` is what gives tensors by name: `safetensors_folder`, `peft_folder` (adapters that PEFT has saved)
and `torch_dist`, which `torch_dist_writer` writes; `torch_dist_records` and `plain_pickle` read where its tensors lie,
and `plain_checkpoint` whether it holds plain data alone. `mean` is that of several models. `nemo_file`, `nemo_yaml` and
`nemo_metadata` know what a .nemo has beside tensors; `hub` downloads.

Whatever a model on disk has that cannot be used is a UserError with its file, what was expected and what was found.

May import `config`, `foreign` and `errors`; neither NeMo nor Megatron.
"""
