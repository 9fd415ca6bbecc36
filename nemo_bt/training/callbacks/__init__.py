"""What happens around a step, a callback for each concern.

May import `training.steps`, `checkpoint`, `observability`, `launching` and what is below them.
"""
