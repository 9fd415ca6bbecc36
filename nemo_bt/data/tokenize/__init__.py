"""Messages -> text -> token ids.

Read `tokenizer` (loading one, and its padding token), `chat_template` (messages -> text -> ids), `templates` (where
one comes from), `shared_prefix` (texts that begin alike are tokenised once), `text_settings` (how a model was given
texts), `foreign_tokenizer` (what of a folder goes to transformers), `field_types` (of a tokenizer's files), `trial`
(whether template and tokenizer end).

May import `data.formats`, `data.read` and what is below them.
"""
