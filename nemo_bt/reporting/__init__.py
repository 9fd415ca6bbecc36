"""A page about a run: its log, its settings, and its model's rewards of the validation pairs.

Read `command` (nemo-bt report), `settings` (which run, found and checked), `rewards` (the model's rewards of every
pair), `numbers` (calibration, correlations), `attributes` (each of them beside what the data says), `robustness`
(rewards after the changes of `transforms`), `curves`, `evaluated` (results of nemo-bt evaluate), `pictures`, `facts`,
`conversations`, `page`; `verdict` (the one sentence).

May import `evaluation`, `scoring` and what is below them.
"""
