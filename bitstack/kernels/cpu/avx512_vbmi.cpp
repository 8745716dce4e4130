// AVX-512, with the 8-bit dot product and 64-entry byte shuffles (Ice Lake, Zen 4 and later).
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "kernel.h"
#include "target.h"

#define BITSTACK_VNNI 1
#define BITSTACK_VBMI 1

BITSTACK_TARGET("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")
#include "convert.h"
#include "transpose.inl"
#include "avx512.inl"
#include "prepare.inl"
#include "rotate.inl"
#include "outliers.inl"
#include "product.inl"
#include "unpack.inl"
#include "attention.inl"

namespace bitstack {
extern const Kernel kAvx512Vbmi = {
    "avx512-vbmi", 64, Avx512::digits, quantize<Avx512>, spread<64>, fast<Avx512>, exact<Avx512>,
    unpack<Avx512>, unpack_halves<Avx512>, scale_columns, rotate<Avx512>,
    outliers, attention<Avx512>};
}
BITSTACK_TARGET_END
#endif
