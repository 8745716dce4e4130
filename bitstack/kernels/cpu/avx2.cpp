// AVX2 (Haswell, Zen and later), whose products of bytes add pairs in 16 bits.
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

namespace bitstack {
extern const Kernel kAvx2 = {
    "avx2", 32, Avx2::digits, quantize<Avx2>, spread<32>, fast<Avx2>,
    exact<Avx2>, unpack<Avx2>, nullptr, nullptr, rotate<Avx2>,
    outliers};
}
BITSTACK_TARGET_END
#endif
