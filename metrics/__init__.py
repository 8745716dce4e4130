"""Evaluators: they measure the quality of a loaded model beside its size. They never change a
model."""
