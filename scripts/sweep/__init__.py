"""The parts of `sweep_architectures.py`: small configs of every type, and a trial of one model.

Does not print; the script does.
"""
