"""Which pairs a prompt's responses make, and which of them would ruin a reward model.

Read `construct` (responses -> pairs), `checks` (the guards), `truncate` (prompts that are too long).

May import `data.tokenize`, `data.formats` and what is below them.
"""
