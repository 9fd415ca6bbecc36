"""A scoring server: HTTP requests -> batches -> rewards.

Read `command` (nemo-bt serve), `app` (routes), `protocol` (their bodies), `batcher` (waiting requests are computed
together), `metrics`.

May import `scoring` and what is below it.
"""
