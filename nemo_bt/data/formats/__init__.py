"""Rows -> prompts with their responses: the formats that people have.

Read `responses` (what every format gives), `table` (the formats, an entry each, made of `format`), `parse` (a row and
its format -> responses) with `prompts`, `turns`, `scores`, `attributes`, `values` (fields of a row, checked),
`helpsteer3` and `rewardmath` (which need code of their own); then `detect` (columns -> format), `left_over` (columns
that nobody would read), `key_hints` (keys for the message where no format fits), `line_pairs` (rows that belong
together), and `custom` (a data set class of one's own).

May import `data.read`, `config` and `errors`.
"""
