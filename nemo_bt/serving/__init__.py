"""A scoring server: HTTP requests -> batches -> rewards.

Read `command` (nemo-bt serve), `connections` (how many, how long), `app` (what becomes of a request), `body` (read and
parsed within limits), `routes` and `protocol` (what is asked and answered), `preparing` (token ids), `batcher` (waiting
requests are computed together), `share` (what one client may hold), `memory` (what is freed goes back), `openapi` (for
other programs), `metrics`.

May import `scoring` and what is below it.
"""
