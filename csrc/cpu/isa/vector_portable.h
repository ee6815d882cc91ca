// Four floats a vector in the compilers' own vector extension: SSE2 on any x86-64, NEON on aarch64, plain C++
// elsewhere. Half-precision numbers are converted one at a time.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace fastbert {
namespace {

struct Vector {
  typedef float Float __attribute__((vector_size(16)));
  typedef std::int32_t Mask __attribute__((vector_size(16)));  // all bits of a lane, or none
  static constexpr int lanes = 4;
  static constexpr int strip_rows = 6;
  // Keys of a block of attention's forward and of a piece of its backward.
  static constexpr int forward_keys = 128, backward_keys = 256;

  static Float zero() { return Float{0, 0, 0, 0}; }
  static Float broadcast(float x) { return Float{x, x, x, x}; }
  static Float load(const float* p) {
    Float x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  static void store(float* p, Float x) { std::memcpy(p, &x, sizeof x); }
  static Float multiply_add(Float a, Float b, Float c) { return a * b + c; }
  static Float subtract_product(Float c, Float a, Float b) { return c - a * b; }
  // The second argument where either is NaN.
  static Float maximum(Float a, Float b) { return select(a > b, a, b); }
  static Float minimum(Float a, Float b) { return select(a < b, a, b); }
  static Float nearest(Float x) {
    const Float magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it leaves no room for a fraction
    volatile Float shifted = x + magic;          // or the compiler may cancel the two
    return shifted - magic;
  }
  // The nearest integer and the rest; anything below -126.
  static void split(Float x, Float& n, Float& f) {
    const Float bounded = maximum(broadcast(-126.0f), x);
    n = nearest(bounded);
    f = bounded - n;
  }
  // x * 2^n for integers n from -126 to 127 and x of 1/2 to 2.
  static Float scale_by_power(Float x, Float n) {
    Mask bits;
    std::memcpy(&bits, &x, sizeof bits);
    for (int lane = 0; lane < lanes; ++lane) {
      const float power = n[lane] == n[lane] ? n[lane] : 0.0f;  // beside a NaN in x, which stays one
      const auto shifted = static_cast<std::uint32_t>(static_cast<std::int32_t>(power)) << 23;
      bits[lane] = static_cast<std::int32_t>(static_cast<std::uint32_t>(bits[lane]) + shifted);
    }
    std::memcpy(&x, &bits, sizeof x);
    return x;
  }

  static Mask at_least(Float a, Float b) { return ~(a < b); }  // or unordered
  static Mask both(Mask a, Mask b) { return a & b; }
  // Lanes whose index, counted from `first`, lies in [begin, end).
  static Mask in_range(int first, int begin, int end) {
    const Mask index = Mask{0, 1, 2, 3} + first;
    return (index >= begin) & (index < end);
  }
  static Mask nonzero(const std::uint8_t* bytes) { return bytes_at_least(bytes, 1); }
  static Mask bytes_at_least(const std::uint8_t* bytes, int threshold) {
    return Mask{bytes[0], bytes[1], bytes[2], bytes[3]} >= threshold;
  }
  static Float select(Mask mask, Float yes, Float no) {
    Mask a, b;
    std::memcpy(&a, &yes, sizeof a);
    std::memcpy(&b, &no, sizeof b);
    a = (a & mask) | (b & ~mask);
    std::memcpy(&yes, &a, sizeof yes);
    return yes;
  }
  static Float or_zero(Mask mask, Float yes) { return select(mask, yes, zero()); }

  // Pairwise, always in the same order.
  static float sum(Float x) { return (x[0] + x[2]) + (x[1] + x[3]); }
  static float largest(Float x) {
    const Float halves = maximum(x, Float{x[2], x[3], x[2], x[3]});
    return maximum(halves, Float{halves[1], halves[1], halves[1], halves[1]})[0];
  }

  static Float load_bfloat16(const std::uint16_t* p) {
    Float x;
    for (int lane = 0; lane < lanes; ++lane) x[lane] = from_bits(static_cast<std::uint32_t>(p[lane]) << 16);
    return x;
  }
  static Float load_float16(const std::uint16_t* p) {
    Float x;
    for (int lane = 0; lane < lanes; ++lane) x[lane] = widen_half(p[lane]);
    return x;
  }
  static void store_bfloat16(std::uint16_t* p, Float x) {
    for (int lane = 0; lane < lanes; ++lane) {
      const std::uint32_t bits = to_bits(x[lane]);
      const bool nan = x[lane] != x[lane];  // a NaN must stay one
      p[lane] = static_cast<std::uint16_t>((nan ? bits | 0x400000u : bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
    }
  }
  static void store_float16(std::uint16_t* p, Float x) {
    for (int lane = 0; lane < lanes; ++lane) p[lane] = narrow_to_half(x[lane]);
  }

  static void transpose(Float (&rows)[lanes]) {
    for (int i = 0; i < lanes; ++i) {
      for (int j = i + 1; j < lanes; ++j) {
        const float upper = rows[i][j];
        rows[i][j] = rows[j][i];
        rows[j][i] = upper;
      }
    }
  }

  // Two vectors to 8 numbers in a row.
  static void store_bfloat16_pair(std::uint16_t* p, Float a, Float b) {
    store_bfloat16(p, a);
    store_bfloat16(p + lanes, b);
  }

 private:
  static std::uint32_t to_bits(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
  }
  static float from_bits(std::uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  }
  static float widen_half(std::uint16_t half) {
    const std::uint32_t sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31u, fraction = half & 0x3FFu;
    if (exponent == 31) return from_bits(sign | 0x7F800000u | fraction << 13);
    if (exponent == 0) {  // zero and the subnormal numbers: fraction * 2^-24
      const float magnitude = static_cast<float>(fraction) * 5.9604644775390625e-8f;
      return sign == 0 ? magnitude : -magnitude;
    }
    return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
  }
  static std::uint16_t narrow_to_half(float x) {  // to the nearest, ties to even
    const std::uint32_t bits = to_bits(x), magnitude = bits & 0x7FFFFFFFu;
    const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
    if (magnitude > 0x7F800000u) return static_cast<std::uint16_t>(sign | 0x7E00u | (magnitude >> 13 & 0x3FFu));
    if (magnitude >= 0x477FF000u) return static_cast<std::uint16_t>(sign | 0x7C00u);  // 65520 and beyond: infinity
    if (magnitude < 0x38800000u) {  // below 2^-14: adding 1/2 leaves a multiple of 2^-24 in the last bits
      return static_cast<std::uint16_t>(sign | (to_bits(from_bits(magnitude) + 0.5f) - 0x3F000000u));
    }
    const std::uint32_t rounded = magnitude + 0xFFFu + (magnitude >> 13 & 1u);
    return static_cast<std::uint16_t>(sign | (rounded - 0x38000000u) >> 13);
  }
};

}  // namespace
}  // namespace fastbert
