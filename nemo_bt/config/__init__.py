"""What can be configured, and which combinations cannot work.

Read `model` (the settings of a run, a frozen dataclass for each section), `run` and `data`, then `load`, which turns
YAML and overrides into them. `sources` completes what a user writes under `model.data`; `parallelism` and `fp8` hold
the equations between fields; `device` tells on what a run runs.

May import `errors` alone, and nothing heavy.
"""
