#include "x86.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace fastbert {
namespace {

#if !defined(FASTBERT_EMULATED_ISA)
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

// Read by hand: the oldest GCC supported does not know the name.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & (1u << 29)) != 0;
}

// Read by hand, like AMX: the compiler's own names are younger than the oldest GCC supported.
#if !defined(FASTBERT_EMULATED_ISA) && !defined(FASTBERT_NO_AVX512_BF16)
bool has_avx512_bf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kAvx512Bf16 = 1u << 5;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & kAvx512Bf16) != 0;
}
#elif defined(FASTBERT_NO_AVX512_BF16)
bool has_avx512_bf16() { return false; }  // the compiler that built this knows none
#endif

#if !defined(FASTBERT_EMULATED_ISA) && !defined(FASTBERT_NO_AMX)
bool has_amx_bf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  if ((edx & kAmxBf16) == 0 || (edx & kAmxTile) == 0) return false;
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kTileConfigAndData = (1u << 17) | (1u << 18);
  return (low & kTileConfigAndData) == kTileConfigAndData;
}
#elif defined(FASTBERT_NO_AMX)
bool has_amx_bf16() { return false; }  // the compiler that built this knows none
#endif

}  // namespace

Isa best_x86_isa() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c()) return Isa::generic;
#if defined(FASTBERT_EMULATED_ISA)
  return Isa::amx;  // tests/emulated_intrinsics plays the rest
#else
  if (!has_avx512()) return Isa::avx2;
  if (!has_avx512_bf16()) return Isa::avx512;
  return has_amx_bf16() ? Isa::amx : Isa::avx512_bf16;
#endif
}

bool request_amx_permission() {
#if defined(FASTBERT_EMULATED_ISA)
  return true;
#elif defined(__linux__)
  constexpr long kArchRequestComponent = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kArchRequestComponent, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace fastbert

#else

namespace fastbert {

Isa best_x86_isa() { return Isa::generic; }

bool request_amx_permission() { return false; }

}  // namespace fastbert

#endif
