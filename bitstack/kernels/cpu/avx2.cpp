// AVX2 (Haswell, Zen and later), whose products of bytes add pairs in 16 bits: see avx2_bytes.inl.
//
// Floors of `fast`, 32 weights of one row (Zen has four ports for vectors, Intel three):
//   bytes       4 a plane: 8, 12 and 16 at 2, 3 and 4 planes
//   operations  2 planes: 1.5 to bring codes together and look-ups 1 + 1; 3: 2.6 and 1.5; 4: 3 and
//               3.5, with a second table. Then 5 for products and sums, 7 at 4 planes. Together
//               7.5, 9.1 and 13.5, so 1.9, 2.3 and 3.4 cycles of four ports
//   measured    2.4, 3.0 and 4.4 cycles on Zen 3, in the first cache: 78% of what the ports could do.
//               Two cores could so take 21, 25 and 22 GB/s of planes. bench_kernels.py, on a machine
//               with other work, printed 88%, 94% and all of what reading alone reached then.
// `exact`, 3 planes: 2.6 operations likewise, then for each eight of the 32 weights a shift, a look-up
// and a multiply-add: 14.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "kernel.h"
#include "target.h"

#define BITSTACK_VNNI 0

BITSTACK_TARGET("avx2,fma,f16c")
#include "convert.h"
#include "transpose.inl"
#include "avx2_bytes.inl"
#include "avx2.inl"
#include "prepare.inl"
#include "rotate.inl"
#include "outliers.inl"
#include "product.inl"
#include "unpack.inl"
#include "attention.inl"

namespace bitstack {
extern const Kernel kAvx2 = {
    "avx2", 32, Avx2::digits, quantize<Avx2>, spread<32>, fast<Avx2>,
    exact<Avx2>, unpack<Avx2>, nullptr, nullptr, rotate<Avx2>,
    outliers, attention<Avx2>};
}
BITSTACK_TARGET_END
#endif
