"""Knows the course of a run: checks the input, then decomposes, tunes, orders and writes. The only
room that calls all of these; holds none of their arithmetic."""
