// Rows of scores to weights, in place, block of keys by block of keys (Milakov and Gimelshein, "Online normalizer
// calculation for softmax", 2018).
//
// Weights are e^(s - m) with m the largest score so far. The difference is taken first and then brought to base 2, so
// the largest weight is exactly 1 and the others keep their relative precision however large the scores are. (One fused
// multiply-add of s and a prepared m would save an instruction and lose both.)
#pragma once

#include "dropout.h"
#include "exp2.h"
#include "mask.h"

namespace fastbert {
namespace {

// What a row knows of the keys it has met.
struct RowState {
  float* largest;  // score, -inf before the first key
  float* sum;      // of weights relative to `largest`, before dropout
};

// Columns [begin, end) of one row, whole vectors; unless they are Scaled, scores are still to be multiplied by the
// scale. Returns what everything accumulated so far must be multiplied by.
template <class V, bool Scaled, bool Masked, bool Dropped>
inline float softmax_row(float* scores, int begin, int end, float scale, const RowMask& mask, const KeptBytes& kept,
                         const RowState& state) {
  using Float = typename V::Float;
  const Float nothing = V::broadcast(kMinusInfinity);
  Float largest = nothing;
  for (int column = begin; column < end; column += V::lanes) {
    Float x = V::load(scores + column);
    if constexpr (!Scaled) x = x * V::broadcast(scale);
    if constexpr (Masked) x = V::select(mask.template lanes<V>(column), x, nothing);
    if constexpr (!Scaled || Masked) V::store(scores + column, x);
    largest = V::maximum(x, largest);
  }
  const float before = *state.largest;
  const float in_block = V::largest(largest);
  const float now = before > in_block ? before : in_block;
  *state.largest = now;
  const float base = now == kMinusInfinity ? 0.0f : now;  // or -inf - -inf would be NaN

  const Float factor = V::broadcast(kLog2E), offset = V::broadcast(base);
  Float sums = V::zero();
  for (int column = begin; column < end; column += V::lanes) {
    const Float weight = exp2<V>((V::load(scores + column) - offset) * factor);
    sums = sums + weight;
    if constexpr (Dropped) {
      V::store(scores + column, V::or_zero(kept.template lanes<V>(column), weight));
    } else {
      V::store(scores + column, weight);
    }
  }
  if (before == now) {
    *state.sum += V::sum(sums);
    return 1.0f;
  }
  const float correction = exp2_of<V>((before - base) * kLog2E);
  *state.sum = *state.sum * correction + V::sum(sums);
  return correction;
}

// For the backward. Of one row: scores to weights P, and s dP to zero where P was dropped. Returns the average of dP
// under P.
template <class V, bool Scaled, bool Masked, bool Dropped>
inline float weigh_row(float* scores, float* gradients, int begin, int end, float scale, float lse, const RowMask& mask,
                       const KeptBytes& kept) {
  using Float = typename V::Float;
  const Float survivors = V::broadcast(survivor_scale(kept.threshold));
  const Float factor = V::broadcast(kLog2E), offset = V::broadcast(lse);
  Float sums = V::zero(), weights = V::zero();
  for (int column = begin; column < end; column += V::lanes) {
    Float score = V::load(scores + column);
    if constexpr (!Scaled) score = score * V::broadcast(scale);
    Float gradient = V::load(gradients + column);
    if constexpr (Masked) {  // before the exponential, which hidden scores may overflow
      const typename V::Mask seen = mask.template lanes<V>(column);
      score = V::select(seen, score, V::broadcast(kMinusInfinity));
      gradient = V::or_zero(seen, gradient);
    }
    const Float weight = exp2<V>((score - offset) * factor);
    if constexpr (Dropped) gradient = V::or_zero(kept.template lanes<V>(column), gradient * survivors);
    V::store(scores + column, weight);
    V::store(gradients + column, gradient);
    weights = weights + weight;
    sums = V::multiply_add(weight, gradient, sums);
  }
  // The weights add up to 1 but for the rounding of lse. Divided by their sum, it cancels in dP - delta.
  const float total = V::sum(weights);
  return total == 0.0f ? 0.0f : V::sum(sums) / total;
}

// dP to dS = P (dP - delta), and P to what of it was kept.
template <class V, bool Dropped>
inline void differentiate_row(float* scores, float* gradients, int begin, int end, float delta, const KeptBytes& kept) {
  using Float = typename V::Float;
  const Float offset = V::broadcast(delta);
  for (int column = begin; column < end; column += V::lanes) {
    const Float weight = V::load(scores + column);
    V::store(gradients + column, weight * (V::load(gradients + column) - offset));
    if constexpr (Dropped) V::store(scores + column, V::or_zero(kept.template lanes<V>(column), weight));
  }
}

}  // namespace
}  // namespace fastbert
