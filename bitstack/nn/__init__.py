"""Torch modules that run from packed blocks, and their way into a model. Do not choose levels and
do not know how blocks were made."""

from bitstack.nn.replace import pack_model, resident_bytes, stacks
from bitstack.nn.stack import Stack

__all__ = ["Stack", "pack_model", "resident_bytes", "stacks"]
