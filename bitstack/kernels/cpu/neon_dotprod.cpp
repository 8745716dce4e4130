// NEON with the 8-bit dot product (Apple M1, Cortex-A55 and A76 and later, Graviton 2).
//
// Floors of `fast`, 32 weights of one row (processors have two or four units for vectors):
//   bytes       4 a plane: 8, 12 and 16 at 2, 3 and 4 planes
//   operations  2 planes: 2 to bring codes together and apart, 2 look-ups; 3: 4.5 and 2; 4: 6 and 4,
//               with a second table. Then 4 products, 6 at 4 planes, and 1.3 for sums and scales:
//               9.3, 11.8 and 17.3 together, so 4.6, 5.9 and 8.6 cycles of two units, half of four
//   executed    13.6, 16.7 and 23.1 instructions with the loads and the loop, of GCC 12, as
//               count_instructions.py printed: 1.2 times the 11.2, 13.6 and 19.4 of AVX2
// Not measured on a processor yet.
#include "target.h"
#if BITSTACK_NEON && BITSTACK_ARM82
#include <arm_neon.h>

#include <cmath>
#include <cstring>

#include "kernel.h"

#define BITSTACK_DOTPROD 1

BITSTACK_TARGET("arch=armv8.2-a+dotprod")
#include "convert.h"
#include "transpose.inl"
#include "neon_bytes.inl"
#include "neon.inl"
#include "prepare.inl"
#include "rotate.inl"
#include "outliers.inl"
#include "neon_product.inl"
#include "unpack.inl"
#include "attention.inl"

namespace bitstack {
extern const Kernel kNeonDotprod = {
    "neon-dotprod", 16, Neon::digits, quantize<Neon>, spread_bytes, fast, exact,
    unpack<Neon>, nullptr, nullptr, rotate<Neon>,
    outliers, attention<Neon>};
}
BITSTACK_TARGET_END
#endif
