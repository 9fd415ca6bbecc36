"""What rewards say about a model: accuracies on pairs and published benchmarks, and feedback made from rewards.

Read `command` (nemo-bt evaluate), `kind` (rows -> which benchmark), `measure` (rows -> accuracies), `rewardbench`,
`m_rewardbench`, `rewardbench2`, `rm_bench`, `judgebench`, `rmb` and `rewardmath` (their sections and weights),
`best_of_n` (answers whose quality is known), `attributes` (of a model that has them), `leaderboard` (results as
leaderboards take them), `label` (nemo-bt label), `accuracy` (shares and how sure they are), `tables`.

May import `scoring` and what is below it.
"""
