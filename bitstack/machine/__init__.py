"""Knows the computer: devices, memory, processes, files and sizes in bytes. Knows no model, no
tensor's meaning and no container."""
