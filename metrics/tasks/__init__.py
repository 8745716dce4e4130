"""Scores of benchmark tasks, measured by lm-eval, the share of the original's score that is kept,
and the scores of budgets that were not measured. Does not define tasks; their files are in
`recipes/tasks`."""
