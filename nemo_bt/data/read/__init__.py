"""Files, URLs and data sets of the hub -> rows, and the account of rows that are dropped.

Read `files` (what a path names, and its digest), `rows` (chunks of rows of each kind of file), `json_array` (a large
JSON list in pieces), `drop_report` (what was dropped, why, and when that stops the run).

May import `config`, `files` and `errors`.
"""
