"""Scores of benchmark tasks, measured by lm-eval, and the share of the original's score that is
kept. Does not define tasks; their files are in `recipes/tasks`."""
