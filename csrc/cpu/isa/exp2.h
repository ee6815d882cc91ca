// 2^x on vectors, to about one unit in the last place of float32.
#pragma once

namespace fastbert {
namespace {

constexpr float kLog2E = 1.4426950408889634f;

// 2^x = 2^n * 2^f with n = round(x) and f in [-1/2, 1/2]. 2^f is 1 + f * g(f), g of degree 5 fitted to the least
// largest relative error (2e-9; rounding to float32 makes it 8e-8), so 2^0 is exactly 1. Below -126 the result is
// exactly 0, -inf included (a weight of 2^-126 would be nothing beside 1, but not times a value of 1e38). NaN stays
// NaN. x must not exceed 127.
template <class V>
inline __attribute__((always_inline)) typename V::Float exp2(typename V::Float x) {
  using Float = typename V::Float;
  const Float least = V::broadcast(-126.0f);
  Float n, f;
  V::split(x, n, f);
  Float g = V::broadcast(1.5353360e-4f);
  g = V::multiply_add(g, f, V::broadcast(1.3398874e-3f));
  g = V::multiply_add(g, f, V::broadcast(9.6184374e-3f));
  g = V::multiply_add(g, f, V::broadcast(5.5503325e-2f));
  g = V::multiply_add(g, f, V::broadcast(2.4022648e-1f));
  g = V::multiply_add(g, f, V::broadcast(6.9314720e-1f));
  g = V::multiply_add(g, f, V::broadcast(1.0f));
  return V::or_zero(V::at_least(x, least), V::scale_by_power(g, n));
}

// The same function of one number.
template <class V>
inline float exp2_of(float x) {
  alignas(64) float lanes[V::lanes];
  V::store(lanes, exp2<V>(V::broadcast(x)));
  return lanes[0];
}

}  // namespace
}  // namespace fastbert
