"""Scores of benchmark tasks, by lm-eval, and how much of the original's score is kept. Does not
define tasks; their files are in `bitstack.recipes`."""
