"""The CPU kernels of another processor, compiled here and run by qemu's user mode emulation.

`build` compiles the library with a program that answers calls, or one that counts instructions;
`library` is what Python calls instead of the real library; `plugin` makes pytest do so. Knows no
tensors and no tests.
"""
