"""Hydra configurations, shipped as nemo_bt.conf: a file for each command, and folders to choose from.

`model` has architectures, `data` mixtures, `recipe` whole runs with published settings and `cluster` devices to plan
for. `chat_template` has templates, `data_class` two examples of a data set class of one's own.
"""
