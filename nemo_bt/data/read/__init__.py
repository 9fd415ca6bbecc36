"""Files, URLs and data sets of the hub -> rows, and the account of rows that are dropped.

Read `files` (what a path names, and its digest), `hub` (data sets by their id), `saved` (folders of save_to_disk),
`chunk` (rows as workers get them), `rows` (chunks of each kind of file), `tables` (files with columns), `json_array`
(a large JSON list in pieces), `unpacked` (compressed files that unpack to too much), `drop_report` (what was dropped,
why, and when that stops the run).

May import `config`, `foreign`, `files` and `errors`.
"""
