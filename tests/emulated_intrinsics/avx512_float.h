// AVX-512 on float32, and conversions to and from 16-bit types.
//
// Written for the processor's settings as a program finds them: round to nearest even, denormals kept. Of two NaNs
// that meet, which one comes out is left to the compiler; the guide leaves it to the order of operands.
#pragma once

#include "lanes.h"

namespace fastbert_emulated {
namespace {

using std::uint16_t;
using std::uint32_t;
using std::uint64_t;

inline Float512 mm512_setzero_ps() { return zero<Float512>(); }
inline Float512 mm512_set1_ps(float x) { return broadcast<float, Float512>(x); }
inline Float512 mm512_castsi512_ps(Int512 a) { return bits_as<Float512>(a); }
inline Int512 mm512_castps_si512(Float512 a) { return bits_as<Int512>(a); }

inline Float512 mm512_loadu_ps(const void* p) { return load<Float512>(p); }
inline Float512 mm512_load_ps(const void* p) { return need_alignment(p), load<Float512>(p); }
inline void mm512_storeu_ps(void* p, Float512 a) { store(p, a); }
inline void mm512_store_ps(void* p, Float512 a) { need_alignment(p), store(p, a); }
inline void mm512_stream_ps(void* p, Float512 a) { need_alignment(p), store(p, a); }
inline Float512 mm512_maskz_loadu_ps(__mmask16 k, const void* p) { return load_masked<float>(k, p, zero<Float512>()); }
inline Float512 mm512_mask_loadu_ps(Float512 otherwise, __mmask16 k, const void* p) {
  return load_masked<float>(k, p, otherwise);
}
inline void mm512_mask_storeu_ps(void* p, __mmask16 k, Float512 a) { store_masked<float>(p, k, a); }

inline Float512 mm512_add_ps(Float512 a, Float512 b) {
  return each<float>(a, b, [](float x, float y) { return x + y; });
}
inline Float512 mm512_sub_ps(Float512 a, Float512 b) {
  return each<float>(a, b, [](float x, float y) { return x - y; });
}
inline Float512 mm512_mul_ps(Float512 a, Float512 b) {
  return each<float>(a, b, [](float x, float y) { return x * y; });
}
inline Float512 mm512_div_ps(Float512 a, Float512 b) {
  return each<float>(a, b, [](float x, float y) { return x / y; });
}
inline Float512 mm512_sqrt_ps(Float512 a) {
  return each<float>(a, [](float x) { return __builtin_sqrtf(x); });
}
// One rounding.
inline Float512 mm512_fmadd_ps(Float512 a, Float512 b, Float512 c) {
  return each<float>(a, b, c, [](float x, float y, float z) { return __builtin_fmaf(x, y, z); });
}
inline Float512 mm512_fmsub_ps(Float512 a, Float512 b, Float512 c) {
  return each<float>(a, b, c, [](float x, float y, float z) { return __builtin_fmaf(x, y, -z); });
}
inline Float512 mm512_fnmadd_ps(Float512 a, Float512 b, Float512 c) {
  return each<float>(a, b, c, [](float x, float y, float z) { return __builtin_fmaf(-x, y, z); });
}
// The second operand where the comparison fails: where either is NaN, and where both are zeros.
inline Float512 mm512_max_ps(Float512 a, Float512 b) {
  return each<float>(a, b, [](float x, float y) { return x > y ? x : y; });
}
inline Float512 mm512_min_ps(Float512 a, Float512 b) {
  return each<float>(a, b, [](float x, float y) { return x < y ? x : y; });
}

// What the compilers have for the operators; a GCC fuses them at will where it knows FMA, this does not.
inline Float512 operator+(Float512 a, Float512 b) { return mm512_add_ps(a, b); }
inline Float512 operator-(Float512 a, Float512 b) { return mm512_sub_ps(a, b); }
inline Float512 operator*(Float512 a, Float512 b) { return mm512_mul_ps(a, b); }
inline Float512 operator/(Float512 a, Float512 b) { return mm512_div_ps(a, b); }
inline Float512 operator-(Float512 a) {
  return each<float>(a, [](float x) { return -x; });
}

// To a multiple of 2^-imm[7:4]; imm[1:0] is nearest even, down, up or towards zero, imm[2] the setting in force.
inline float round_to_multiple(float x, int imm) {
  const double factor = static_cast<double>(1 << (imm >> 4 & 15));
  const double scaled = static_cast<double>(x) * factor;
  const int mode = (imm & 4) != 0 ? 0 : imm & 3;
  const double rounded = mode == 0   ? __builtin_rint(scaled)
                         : mode == 1 ? __builtin_floor(scaled)
                         : mode == 2 ? __builtin_ceil(scaled)
                                     : __builtin_trunc(scaled);
  return static_cast<float>(rounded / factor);
}
inline Float512 mm512_roundscale_ps(Float512 a, int imm) {
  return each<float>(a, [imm](float x) { return round_to_multiple(x, imm); });
}

// What rounding to a multiple takes away, itself rounded in that direction; +0 of an infinity.
inline float rest_of_multiple(float x, int imm) {
  if (x - x != 0.0f) return x != x ? x : 0.0f;
  const int mode = (imm & 4) != 0 ? 0 : imm & 3;
  const float multiple = -round_to_multiple(x, imm), rest = x + multiple;
  if (rest == 0.0f) return mode == 1 ? -0.0f : 0.0f;
  const float taken = rest - x, error = (x - (rest - taken)) + (multiple - taken);  // exact: Knuth's two-sum
  const bool down = mode == 1 || (mode == 3 && rest > 0.0f), up = mode == 2 || (mode == 3 && rest < 0.0f);
  const uint32_t away = bits_as<uint32_t>(rest) + 1, towards = bits_as<uint32_t>(rest) - 1;
  if (down && error < 0.0f) return bits_as<float>(rest > 0.0f ? towards : away);
  if (up && error > 0.0f) return bits_as<float>(rest > 0.0f ? away : towards);
  return rest;
}
inline Float512 mm512_reduce_ps(Float512 a, int imm) {
  return each<float>(a, [imm](float x) { return rest_of_multiple(x, imm); });
}

// x * 2^floor(n), rounded once; the special cases are the table at VSCALEFPS.
inline float scale(float x, float n) {
  const uint32_t bits = bits_as<uint32_t>(x);
  const bool quiet = x != x && (bits & 0x400000u) != 0;
  const float infinity = __builtin_inff(), quiet_nan = __builtin_nanf("");
  if (n != n || x != x) {
    if (quiet && n == infinity) return infinity;
    if (quiet && n == -infinity) return 0.0f;
    return quiet_nan;
  }
  if (n == infinity) return x == 0.0f ? quiet_nan : __builtin_copysignf(infinity, x);
  if (n == -infinity) return x == infinity || x == -infinity ? quiet_nan : __builtin_copysignf(0.0f, x);
  // Beyond 300 every float32 but 0 and infinity is out of range already, and within the double is exact.
  const double power = __builtin_floor(static_cast<double>(n));
  const double bounded = power < -300.0 ? -300.0 : power > 300.0 ? 300.0 : power;
  const double factor = bits_as<double>(static_cast<uint64_t>(static_cast<std::int64_t>(bounded) + 1023) << 52);
  return static_cast<float>(static_cast<double>(x) * factor);
}
inline Float512 mm512_scalef_ps(Float512 a, Float512 n) { return each<float>(a, n, scale); }

// The 32 predicates: imm[4] tells only which NaNs raise a flag, imm[3] what a NaN answers.
inline bool compares(float x, float y, int predicate) {
  const bool unordered = x != x || y != y;
  switch (predicate & 15) {
    case 0:  // EQ_O
      return x == y;
    case 1:  // LT
      return x < y;
    case 2:  // LE
      return x <= y;
    case 3:  // UNORD
      return unordered;
    case 4:  // NEQ_U
      return unordered || x != y;
    case 5:  // NLT
      return unordered || x >= y;
    case 6:  // NLE
      return unordered || x > y;
    case 7:  // ORD
      return !unordered;
    case 8:  // EQ_U
      return unordered || x == y;
    case 9:  // NGE
      return unordered || x < y;
    case 10:  // NGT
      return unordered || x <= y;
    case 11:  // FALSE
      return false;
    case 12:  // NEQ_O
      return !unordered && x != y;
    case 13:  // GE
      return x >= y;
    case 14:  // GT
      return x > y;
    default:  // TRUE
      return true;
  }
}
inline __mmask16 mm512_cmp_ps_mask(Float512 a, Float512 b, int predicate) {
  return compare<__mmask16, float>(a, b, [predicate](float x, float y) { return compares(x, y, predicate); });
}

// In halves: 16 to 8, to 4, to 2, to 1.
template <class Function>
inline float reduce(Float512 a, const Function& function) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a.lane[i] = function(a.lane[i], a.lane[i + half]);
  }
  return a.lane[0];
}
inline float mm512_reduce_add_ps(Float512 a) {
  return reduce(a, [](float x, float y) { return x + y; });
}
inline float mm512_reduce_max_ps(Float512 a) {
  return reduce(a, [](float x, float y) { return x > y ? x : y; });
}
inline float mm512_reduce_min_ps(Float512 a) {
  return reduce(a, [](float x, float y) { return x < y ? x : y; });
}

// float16: 1 bit sign, 5 exponent (bias 15), 10 mantissa. Denormals count in both directions, NaNs become quiet.
inline float float_of_half(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31u, mantissa = half & 0x3FFu;
  if (exponent == 31) return bits_as<float>(sign | 0x7F800000u | mantissa << 13 | (mantissa != 0 ? 0x400000u : 0u));
  const float magnitude = exponent == 0 ? static_cast<float>(mantissa) * 0x1p-24f
                                        : bits_as<float>((exponent + 127 - 15) << 23 | mantissa << 13);
  return bits_as<float>(sign | bits_as<uint32_t>(magnitude));
}
inline uint16_t half_of_float(float x) {
  const uint32_t bits = bits_as<uint32_t>(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00u | (magnitude >> 13 & 0x3FFu));
  const double wanted = static_cast<double>(bits_as<float>(magnitude));
  if (wanted >= 65520.0) return static_cast<uint16_t>(sign | 0x7C00u);  // halfway to the power after the last number
  if (wanted < 0x1p-14) return static_cast<uint16_t>(sign | static_cast<uint32_t>(__builtin_rint(wanted * 0x1p24)));
  const uint32_t nearest = magnitude + 0xFFFu + (magnitude >> 13 & 1u);
  return static_cast<uint16_t>(sign | (nearest - ((127u - 15u) << 23)) >> 13);
}
inline Float512 mm512_cvtph_ps(__m256i a) { return convert<float, Float512, uint16_t>(a, float_of_half); }
inline __m256i mm512_cvtps_ph(Float512 a, int imm) {
  if ((imm & 7) != 0 && (imm & 4) == 0) misuse("cvtps_ph rounds to nearest only");
  return convert<uint16_t, __m256i, float>(a, half_of_float);
}

// bfloat16 as AVX512_BF16 has it: to nearest even, denormals become zeros, NaNs quiet.
inline uint16_t bfloat16_of_float(float x) {
  const uint32_t bits = bits_as<uint32_t>(x), magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  if (magnitude < 0x800000u) return static_cast<uint16_t>(bits >> 16 & 0x8000u);
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}
inline Bfloat256 mm512_cvtneps_pbh(Float512 a) { return convert<uint16_t, Bfloat256, float>(a, bfloat16_of_float); }
inline Bfloat512 mm512_cvtne2ps_pbh(Float512 high, Float512 low) {
  Bfloat512 result;
  for (int i = 0; i < 16; ++i) {
    result.lane[i] = bfloat16_of_float(low.lane[i]);
    result.lane[16 + i] = bfloat16_of_float(high.lane[i]);
  }
  return result;
}

// The odd product is added first, each rounded once; denormals count as zeros everywhere.
inline float without_denormals(float x) {
  const bool tiny = x < 0x1p-126f && x > -0x1p-126f;
  return tiny ? __builtin_copysignf(0.0f, x) : x;
}
inline Float512 mm512_dpbf16_ps(Float512 sums, Bfloat512 a, Bfloat512 b) {
  const auto number = [](uint16_t bits) {
    return without_denormals(bits_as<float>(static_cast<uint32_t>(bits) << 16));
  };
  for (int i = 0; i < 16; ++i) {
    float sum = without_denormals(sums.lane[i]);
    for (int part = 1; part >= 0; --part) {
      sum = without_denormals(__builtin_fmaf(number(a.lane[2 * i + part]), number(b.lane[2 * i + part]), sum));
    }
    sums.lane[i] = sum;
  }
  return sums;
}

inline Float512 mm512_cvtepi32_ps(Int512 a) {
  return convert<float, Float512, std::int32_t>(a, [](std::int32_t x) { return static_cast<float>(x); });
}

}  // namespace
}  // namespace fastbert_emulated
