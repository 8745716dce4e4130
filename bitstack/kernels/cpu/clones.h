// One copy of a loop for each kind of machine, which the loader picks: for loops that the compiler
// vectorises by itself, beside the kernels, whose variants are written by hand.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define BITSTACK_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define BITSTACK_CLONES
#endif
