"""What can be configured, and which combinations cannot work.

Read `model` (the settings of a run, a frozen dataclass for each section; `job` is what every command shares with it),
`run`, `optim`, `loss` and `data`, then `load`, which turns YAML and `overrides` into them, and `messages`, which says
what is wrong. `score`, `serve` and `plan` have what those commands are told beside; `fields` has the types of fields,
with their ranges, `given` what a user may leave out of sources. `shipped` lists the files of conf/, `foreign_names` has
what other trainers call a setting, `describe` gives the meaning of each. `equations`, `parallelism` and `fp8` hold the
equations between fields; `length` gives the longest conversation, `device` tells on what a run runs, and `custom`
loads a function or class of one's own.

May import `foreign` and `errors` alone, and nothing heavy.
"""
