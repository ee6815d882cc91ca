// Two vectors handled as one, each step done for both before the next.
//
// Element-wise kernels are chains of dependent instructions, dozens of cycles long, and a processor looks ahead over
// two such chains at most; interleaved by hand they take turns in its pipelines. (Compilers do not do it: they would
// have to know that a store does not change what is loaded next.) Offers what the struct Vector of ./vector_*.h offers,
// as far as element-wise kernels ask.
#pragma once

#include <cstdint>

#include "rows.h"

namespace fastbert {
namespace {

template <class V>
struct Pair {
  struct Float {
    typename V::Float a, b;

    friend FASTBERT_INLINE Float operator+(Float x, Float y) { return {x.a + y.a, x.b + y.b}; }
    friend FASTBERT_INLINE Float operator-(Float x, Float y) { return {x.a - y.a, x.b - y.b}; }
    friend FASTBERT_INLINE Float operator*(Float x, Float y) { return {x.a * y.a, x.b * y.b}; }
    friend FASTBERT_INLINE Float operator/(Float x, Float y) { return {x.a / y.a, x.b / y.b}; }
  };
  struct Mask {
    typename V::Mask a, b;
  };
  static constexpr int lanes = 2 * V::lanes;

  static FASTBERT_INLINE Float zero() { return {V::zero(), V::zero()}; }
  static FASTBERT_INLINE Float broadcast(float x) { return {V::broadcast(x), V::broadcast(x)}; }
  static FASTBERT_INLINE Float load(const float* p) { return {V::load(p), V::load(p + V::lanes)}; }
  static FASTBERT_INLINE void store(float* p, Float x) {
    V::store(p, x.a);
    V::store(p + V::lanes, x.b);
  }
  static FASTBERT_INLINE Float multiply_add(Float x, Float y, Float z) {
    return {V::multiply_add(x.a, y.a, z.a), V::multiply_add(x.b, y.b, z.b)};
  }
  static FASTBERT_INLINE Float subtract_product(Float z, Float x, Float y) {
    return {V::subtract_product(z.a, x.a, y.a), V::subtract_product(z.b, x.b, y.b)};
  }
  static FASTBERT_INLINE Float maximum(Float x, Float y) { return {V::maximum(x.a, y.a), V::maximum(x.b, y.b)}; }
  static FASTBERT_INLINE Float minimum(Float x, Float y) { return {V::minimum(x.a, y.a), V::minimum(x.b, y.b)}; }
  static FASTBERT_INLINE void split(Float x, Float& n, Float& f) {
    V::split(x.a, n.a, f.a);
    V::split(x.b, n.b, f.b);
  }
  static FASTBERT_INLINE Float scale_by_power(Float x, Float n) {
    return {V::scale_by_power(x.a, n.a), V::scale_by_power(x.b, n.b)};
  }

  static FASTBERT_INLINE Mask at_least(Float x, Float y) { return {V::at_least(x.a, y.a), V::at_least(x.b, y.b)}; }
  static FASTBERT_INLINE Mask in_range(int first, int begin, int end) {
    return {V::in_range(first, begin, end), V::in_range(first + V::lanes, begin, end)};
  }
  static FASTBERT_INLINE Mask bytes_at_least(const std::uint8_t* bytes, int threshold) {
    return {V::bytes_at_least(bytes, threshold), V::bytes_at_least(bytes + V::lanes, threshold)};
  }
  static FASTBERT_INLINE Float select(Mask mask, Float yes, Float no) {
    return {V::select(mask.a, yes.a, no.a), V::select(mask.b, yes.b, no.b)};
  }
  static FASTBERT_INLINE Float or_zero(Mask mask, Float yes) {
    return {V::or_zero(mask.a, yes.a), V::or_zero(mask.b, yes.b)};
  }

  static FASTBERT_INLINE float sum(Float x) { return V::sum(x.a + x.b); }
  static FASTBERT_INLINE float largest(Float x) { return V::largest(V::maximum(x.a, x.b)); }

  static FASTBERT_INLINE Float load_bfloat16(const std::uint16_t* p) {
    return {V::load_bfloat16(p), V::load_bfloat16(p + V::lanes)};
  }
  static FASTBERT_INLINE Float load_float16(const std::uint16_t* p) {
    return {V::load_float16(p), V::load_float16(p + V::lanes)};
  }
  static FASTBERT_INLINE void store_bfloat16(std::uint16_t* p, Float x) { V::store_bfloat16_pair(p, x.a, x.b); }
  static FASTBERT_INLINE void store_float16(std::uint16_t* p, Float x) {
    V::store_float16(p, x.a);
    V::store_float16(p + V::lanes, x.b);
  }
};

}  // namespace
}  // namespace fastbert
