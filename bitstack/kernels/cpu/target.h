// BITSTACK_TARGET("avx2,fma") ... BITSTACK_TARGET_END: compile what lies between for that target.
// Standard headers must be included before: their inline functions would otherwise be compiled
// for it too, and the linker might keep that copy for machines that lack it.
#pragma once

// Whether the compiler knows AVX-VNNI, the 8-bit dot product of processors without AVX-512.
#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 13 : __GNUC__ >= 11)
#define BITSTACK_AVXVNNI 1
#else
#define BITSTACK_AVXVNNI 0
#endif

// 64-bit Arm, and whether the compiler knows its 8-bit dot and matrix products: clang only from the
// version on that lets a function have them which the whole file has not.
#if defined(__aarch64__) && !defined(__AARCH64EB__)
#define BITSTACK_NEON 1
#else
#define BITSTACK_NEON 0
#endif
#if BITSTACK_NEON && (defined(__apple_build_version__) ? __clang_major__ >= 15 \
                      : defined(__clang__)             ? __clang_major__ >= 16 \
                                                       : __GNUC__ >= 10)
#define BITSTACK_ARM82 1
#else
#define BITSTACK_ARM82 0
#endif

#define BITSTACK_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define BITSTACK_TARGET(isa) \
  BITSTACK_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define BITSTACK_TARGET_END _Pragma("clang attribute pop")
#else
#define BITSTACK_TARGET(isa) \
  _Pragma("GCC push_options") BITSTACK_PRAGMA(GCC target(isa))
#define BITSTACK_TARGET_END _Pragma("GCC pop_options")
#endif
