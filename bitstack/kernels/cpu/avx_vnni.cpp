// AVX2 with the 8-bit dot product (Alder Lake, Zen 5): not where AVX-512 brings it.
#include "target.h"
#if BITSTACK_AVXVNNI
#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "kernel.h"

#define BITSTACK_VNNI 1

BITSTACK_TARGET("avx2,fma,f16c,avxvnni")
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
extern const Kernel kAvxVnni = {
    "avx-vnni", 32, Avx2::digits, quantize<Avx2>, spread<32>, fast<Avx2>,
    exact<Avx2>, unpack<Avx2>, nullptr, nullptr, rotate<Avx2>,
    outliers, attention<Avx2>};
}
BITSTACK_TARGET_END
#endif
