// NEON with the matrix product of bytes (Apple M2, Graviton 3, Cortex-A510 and X2 and later). These
// processors have bf16 arithmetic too.
//
// Floors of `fast`, 32 weights of one row, where they are not those of neon_dotprod.cpp:
//   operations  2 planes: 3 for the codes of two rows, 2 look-ups; 3: 7 and 2. Then 2 products, and
//               1.5 for sums and scales: 8.5 and 12.5 together. Of each of four tokens 4.8 and 5.8,
//               where dot products need 6.3 and 6.9
//   executed    12.7 and 16.7 instructions, of each of four tokens 7.5 and 8.7, of GCC 12, as
//               count_instructions.py printed; those with dot products take 12.5 and 13.2 there
// Not measured on a processor yet.
#include "target.h"
#if BITSTACK_NEON && BITSTACK_ARM82
#include <arm_neon.h>

#include <cmath>
#include <cstring>

#include "kernel.h"

#define BITSTACK_DOTPROD 1

BITSTACK_TARGET("arch=armv8.2-a+dotprod+i8mm")
#include "convert.h"
#include "transpose.inl"
#include "neon_bytes.inl"
#include "neon.inl"
#include "prepare.inl"
#include "rotate.inl"
#include "outliers.inl"
#include "neon_product.inl"
#include "neon_i8mm.inl"
#include "unpack.inl"
#include "attention.inl"

namespace bitstack {
extern const Kernel kNeonI8mm = {
    "neon-i8mm", 16, I8mm::digits, I8mm::quantize, spread_bytes, I8mm::fast, exact,
    unpack<Neon>, unpack_halves<Neon>, scale_columns, rotate<Neon>,
    outliers, attention<Neon>};
}
BITSTACK_TARGET_END
#endif
