"""What a run shows and writes about itself.

Read `terminal` (lines, tables and the bar), `metrics_log` (metrics.jsonl), `trackers` (W&B, SwanLab, TensorBoard),
`events` (events.jsonl: starts, saves, ends, failures), `time_spent` (what the time of a run goes to, while it goes on),
`goodput` (the same over all its starts), `failure` (how a rank that fails says so).

May import `config`, `launching`, `metrics`, `foreign`, `files` and `errors`.
"""
