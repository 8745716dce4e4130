// Which variants of the kernel this machine runs.
#include <vector>

#include "call.h"
#include "target.h"

#if BITSTACK_AVXVNNI
#include <cpuid.h>
#elif BITSTACK_ARM82 && defined(__APPLE__)
#include <sys/sysctl.h>
#elif BITSTACK_ARM82 && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace bitstack {
namespace {

struct Variant {
  const Kernel* kernel;
  bool runs;
};

#if BITSTACK_AVXVNNI
// Not every compiler that knows the instructions knows how to ask for them.
bool has_avx_vnni() {
  unsigned a = 0, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif

#if BITSTACK_ARM82
struct Arm {
  bool dotprod, i8mm;
};

Arm ask_arm() {
#if defined(__APPLE__)
  const auto has = [](const char* name) {
    int32_t value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value;
  };
  return {has("hw.optional.arm.FEAT_DotProd"), has("hw.optional.arm.FEAT_I8MM")};
#elif defined(__linux__)  // the bits of ASIMDDP and I8MM, which older headers do not name
  return {(getauxval(AT_HWCAP) >> 20 & 1) != 0, (getauxval(AT_HWCAP2) >> 13 & 1) != 0};
#else
  return {false, false};
#endif
}
#endif

std::vector<Variant> find_variants() {
  std::vector<Variant> all;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  all.push_back({&kAvx512Vbmi, vnni && __builtin_cpu_supports("avx512vbmi")});
  all.push_back({&kAvx512Vnni, vnni});
  all.push_back({&kAvx512, avx512});
#if BITSTACK_AVXVNNI
  all.push_back({&kAvxVnni, avx2 && has_avx_vnni()});
#endif
  all.push_back({&kAvx2, avx2});
#elif BITSTACK_NEON
#if BITSTACK_ARM82
  const Arm arm = ask_arm();
  all.push_back({&kNeonI8mm, arm.dotprod && arm.i8mm});
  all.push_back({&kNeonDotprod, arm.dotprod});
#endif
  all.push_back({&kNeon, true});
#endif
  all.push_back({&kPortable, true});
  return all;
}

// Best first.
const std::vector<Variant>& variants() {
  static const std::vector<Variant> all = find_variants();
  return all;
}

}  // namespace

const Kernel* find_kernel(int32_t variant) {
  if (variant < 0 || variant >= int32_t(variants().size())) return nullptr;
  const Variant& found = variants()[size_t(variant)];
  return found.runs ? found.kernel : nullptr;
}

// Which arguments the calls take: `kernels/library.py` names the same number, or passes this library
// over as one of other sources.
BITSTACK_API int32_t bitstack_interface() { return 4; }

// Name of variant `index`, best first; null past the last. `runs`: whether this machine can run it.
// `fast`, `halves`: whether it has a fast product and an unpacking to 16 bits of its own.
BITSTACK_API const char* bitstack_variant(int32_t index, int32_t* runs, int32_t* fast,
                                          int32_t* halves) {
  if (index < 0 || index >= int32_t(variants().size())) return nullptr;
  const Variant& variant = variants()[size_t(index)];
  *runs = variant.runs;
  *fast = variant.kernel->fast != nullptr;
  *halves = variant.kernel->unpack_halves != nullptr;
  return variant.kernel->name;
}

}  // namespace bitstack
