"""Rows -> prompts with their responses: the formats that people have.

Read `responses` (what every format gives), `detect` (columns -> format), `general` and `published` (the formats),
`values` (fields of a row, checked), `custom` (a data set class of one's own).

May import `data.read`, `config` and `errors`.
"""
