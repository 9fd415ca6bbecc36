"""What a run shows and writes about itself.

Read `terminal` (lines, tables and the bar), `metrics_log` (metrics.jsonl), `trackers` (W&B, SwanLab, TensorBoard),
`events` (events.jsonl: starts, ends, failures), `failure` (how a rank that fails says so).

May import `config`, `launching`, `metrics`, `foreign`, `files` and `errors`.
"""
