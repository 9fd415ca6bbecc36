"""Conversion between Hugging Face folders and .nemo, checked by comparing rewards, and the mean of models.

Read `hf_to_nemo` and `nemo_to_hf`, the two commands, then `output` (an output that is whole or not there) and `parity`
(the comparison). `average` writes the mean of models that `alike` has looked at. `options` are those of the command
line. `megatron` writes a .nemo; `export_files`, `model_card` and `hub` are what an export has and where it goes;
`peft_adapter` writes adapters alone; `stale` leaves out what a model no longer is; `progress` is what is shown.

Shipped as nemo_bt.converters. May import everything of nemo_bt but its command line.
"""
