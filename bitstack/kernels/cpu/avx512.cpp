// AVX-512, without the 8-bit dot product (Skylake-X).
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "kernel.h"
#include "target.h"

#define BITSTACK_VNNI 0
#define BITSTACK_VBMI 0

BITSTACK_TARGET("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")
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
extern const Kernel kAvx512 = {
    "avx512", 64, nullptr, nullptr, spread<64>, nullptr, exact<Avx512>,
    unpack<Avx512>, unpack_halves<Avx512>, scale_columns, rotate<Avx512>,
    outliers, attention<Avx512>};
}
BITSTACK_TARGET_END
#endif
