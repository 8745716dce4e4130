// NEON of any 64-bit Arm processor (Cortex-A53 and A72), without a dot product of bytes: products are
// added in 16 bits, see neon_bytes.inl.
//
// Floors of `fast`, 32 weights of one row:
//   bytes       4 a plane
//   operations  2 planes: 2 to bring codes together and apart, 2 look-ups; 3: 4.5 and 2; 4: 6 and 4,
//               with a second table. Then 8 products, 12 at 4 planes, and 3.3 for sums and scales:
//               15.3, 17.8 and 25.3 together
//   executed    18.6, 22.4 and 31.8 instructions with the loads and the loop, of GCC 12, as
//               count_instructions.py printed; AVX2 has 11.2, 13.6 and 19.4
#include "target.h"
#if BITSTACK_NEON
#include <arm_neon.h>

#include <cmath>
#include <cstring>

#include "kernel.h"

#define BITSTACK_DOTPROD 0

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
extern const Kernel kNeon = {
    "neon", 16, Neon::digits, quantize<Neon>, spread_bytes, fast, exact,
    unpack<Neon>, nullptr, nullptr, rotate<Neon>,
    outliers, attention<Neon>};
}
#endif
