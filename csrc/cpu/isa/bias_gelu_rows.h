// GELU of x + bias, row by row. See ../bias_gelu.h.
#pragma once

#include "../bias_gelu.h"
#include "exp2.h"
#include "rows.h"

namespace fastbert {
namespace {

// The function and its derivative at one point.
template <class V>
struct Gelu {
  typename V::Float value, derivative;
};

// y * Phi(y) by way of Phi(-a) = exp(-a^2 / 2) * G(a), which keeps its accuracy in the tail and hands the derivative
// its exponential. G is a polynomial of degree 9 in (a - 3) / (a + 3), fitted on [0, 14] to the least largest relative
// error (9e-9); beyond 13.3 the exponential is zero.
template <class V>
inline FASTBERT_INLINE Gelu<V> gelu_erf(typename V::Float y) {
  using Float = typename V::Float;
  constexpr float kHalfLog2e = 0.72134752f, kInverseRootTwoPi = 0.39894228f;
  const Float zero = V::zero(), a = V::minimum(V::broadcast(14.0f), V::maximum(zero - y, y));  // infinity too
  const Float u = (a - V::broadcast(3.0f)) / (a + V::broadcast(3.0f));
  Float g = V::broadcast(5.4042353e-5f);
  g = V::multiply_add(g, u, V::broadcast(1.1598719e-4f));
  g = V::multiply_add(g, u, V::broadcast(-3.3988737e-4f));
  g = V::multiply_add(g, u, V::broadcast(-9.8424102e-4f));
  g = V::multiply_add(g, u, V::broadcast(2.9047416e-3f));
  g = V::multiply_add(g, u, V::broadcast(6.1322423e-3f));
  g = V::multiply_add(g, u, V::broadcast(-4.6213336e-2f));
  g = V::multiply_add(g, u, V::broadcast(1.2322501e-1f));
  g = V::multiply_add(g, u, V::broadcast(-2.0640261e-1f));
  g = V::multiply_add(g, u, V::broadcast(1.2151395e-1f));
  const Float bell = exp2<V>(zero - y * y * V::broadcast(kHalfLog2e));
  const Float tail = bell * g;
  const Float phi = V::select(V::at_least(y, zero), V::broadcast(1.0f) - tail, tail);
  return {y * phi, V::multiply_add(y * V::broadcast(kInverseRootTwoPi), bell, phi)};
}

// y / 2 * (1 + tanh(z)) = y * s with s = 1 / (1 + exp(-2 z)), z = sqrt(2 / pi) * (y + 0.044715 y^3).
template <class V>
inline FASTBERT_INLINE Gelu<V> gelu_tanh(typename V::Float y) {
  using Float = typename V::Float;
  constexpr float kTwiceRoot = 1.5957691f, kCubic = 0.044715f;  // 2 * sqrt(2 / pi)
  const Float one = V::broadcast(1.0f), square = y * y;
  const Float twice_z = y * V::multiply_add(square, V::broadcast(kTwiceRoot * kCubic), V::broadcast(kTwiceRoot));
  const Float most = V::broadcast(126.0f), exponent = twice_z * V::broadcast(-kLog2E);
  const Float e = exp2<V>(V::minimum(most, exponent));
  const Float s = V::or_zero(V::at_least(most, exponent), one / (one + e));
  const Float slope = V::multiply_add(square, V::broadcast(3.0f * kTwiceRoot * kCubic), V::broadcast(kTwiceRoot));
  return {y * s, V::multiply_add(y * slope * s, e * s, s)};
}

template <class V, bool Tanh>
inline FASTBERT_INLINE Gelu<V> gelu(typename V::Float y) {
  if constexpr (Tanh) return gelu_tanh<V>(y);
  return gelu_erf<V>(y);
}

template <class V, DType dtype, bool Tanh>
void bias_gelu_forward_rows(const BiasGeluForwardParams& params, std::int64_t begin, std::int64_t end) {
  using R = Row<V, dtype>;
  using F = Row<V, DType::float32>;
  using E = typename R::Element;
  for (std::int64_t row = begin; row < end; ++row) {
    const E* x = static_cast<const E*>(params.x) + row * params.columns;
    E* out = static_cast<E*>(params.out) + row * params.columns;
    for_row<V>(params.columns, [&](std::int64_t column, auto part, int) FASTBERT_INLINE {
      const auto y = R::load(x + column, part) + F::load(params.bias + column, part);
      R::store(out + column, gelu<V, Tanh>(y).value, part);
    });
  }
}

// dbias is (columns,): what these rows add to it.
template <class V, DType dtype, bool Tanh>
void bias_gelu_backward_rows(const BiasGeluBackwardParams& params, std::int64_t begin, std::int64_t end, float* dbias) {
  using R = Row<V, dtype>;
  using F = Row<V, DType::float32>;
  using E = typename R::Element;
  for (std::int64_t column = 0; column < params.columns; ++column) dbias[column] = 0.0f;
  for (std::int64_t row = begin; row < end; ++row) {
    const E* x = static_cast<const E*>(params.x) + row * params.columns;
    const E* dout = static_cast<const E*>(params.dout) + row * params.columns;
    E* dx = static_cast<E*>(params.dx) + row * params.columns;
    for_row<V>(params.columns, [&](std::int64_t column, auto part, int) FASTBERT_INLINE {
      const auto y = R::load(x + column, part) + F::load(params.bias + column, part);
      const auto gradient = R::load(dout + column, part) * gelu<V, Tanh>(y).derivative;
      R::store(dx + column, gradient, part);
      F::store(dbias + column, gradient + F::load(dbias + column, part), part);
    });
  }
}

}  // namespace
}  // namespace fastbert
