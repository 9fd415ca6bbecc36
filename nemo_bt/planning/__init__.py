"""Memory and time of a layout, counted without building it; docs/design/planner.md has the method.

Read `command` (nemo-bt plan), `checks` (what cannot be planned), `search` (every layout); `memory` (`parameters`,
`buffers`, `state`, `engine`: what Transformer Engine keeps; `activations`, of each `layer` with its `linear` layers,
from `rows`); `time` (`work`: FLOPs; `traffic`, `stream_traffic`, `schedule`, `streams`); `failures` (what they leave of
a run's time, and how often to save); `report` (what is shown), `dry_run` (nemo-bt train --dry-run), `trace` (nemo-bt
plan --trace: a rank of `nemo_bt.phantom` beside its plan, on pairs that are `drawn` where there is no data) and
`trace_report`.

May import `training` and what is below it.
"""
