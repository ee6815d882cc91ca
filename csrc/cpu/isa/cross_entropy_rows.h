// Cross entropy, row by row. See ../cross_entropy.h.
#pragma once

#include "../cross_entropy.h"
#include "exp2.h"
#include "rows.h"

namespace fastbert {
namespace {

constexpr std::int64_t kBlockClasses = 1024;  // read from memory, then from the nearest cache
constexpr float kInfinity = __builtin_inff();

// The sum of exp(logits) as its two parts, exp(largest) and what that is multiplied by: their logarithms are not added,
// which would round away the loss of a row whose largest logit is large.
struct Normaliser {
  float largest, log_rest;
};

template <class V, DType dtype>
Normaliser normaliser(const typename Row<V, dtype>::Element* logits, std::int64_t classes) {
  using R = Row<V, dtype>;
  using Float = typename V::Float;
  const Float lowest = V::broadcast(-kInfinity), log2e = V::broadcast(kLog2E);
  float largest = -kInfinity, rest = 0.0f;
  for (std::int64_t first = 0; first < classes; first += kBlockClasses) {
    const std::int64_t width = classes - first < kBlockClasses ? classes - first : kBlockClasses;
    const auto* block = logits + first;
    Float way[2] = {lowest, lowest};
    for_row<V>(width, [&](std::int64_t column, auto part, int w) FASTBERT_INLINE {
      way[w] = V::maximum(way[w], inside<V>(R::load(block + column, part), lowest, part));
    });
    const float here = V::largest(V::maximum(way[0], way[1]));
    if (here > largest) {
      rest *= __builtin_expf(largest - here);
      largest = here;
    }
    const Float base = V::broadcast(largest == -kInfinity ? 0.0f : largest);
    Sums<V> sums;
    for_row<V>(width, [&](std::int64_t column, auto part, int w) FASTBERT_INLINE {
      const Float exponential = exp2<V>((R::load(block + column, part) - base) * log2e);
      sums.way[w] = sums.way[w] + inside<V>(exponential, V::zero(), part);
    });
    rest += sums.total();
  }
  return {largest, __builtin_logf(rest)};
}

template <class V, DType dtype>
float at(const typename Row<V, dtype>::Element* p) {
  float lanes[V::lanes];
  V::store(lanes, Row<V, dtype>::load(p, Part{1}));
  return lanes[0];
}

template <class V, DType dtype>
void cross_entropy_forward_rows(const CrossEntropyForwardParams& params, std::int64_t begin, std::int64_t end) {
  using E = typename Row<V, dtype>::Element;
  for (std::int64_t row = begin; row < end; ++row) {
    const E* logits = static_cast<const E*>(params.logits) + row * params.classes;
    const std::int64_t target = params.targets[row];
    params.losses[row] = params.largest[row] = params.log_rest[row] = 0.0f;
    if (target == params.ignore_index) continue;
    const Normaliser sum = normaliser<V, dtype>(logits, params.classes);
    params.largest[row] = sum.largest;
    params.log_rest[row] = sum.log_rest;
    params.losses[row] = (sum.largest - at<V, dtype>(logits + target)) + sum.log_rest;
  }
}

template <class V, DType dtype>
void cross_entropy_backward_rows(const CrossEntropyBackwardParams& params, std::int64_t begin, std::int64_t end) {
  using R = Row<V, dtype>;
  using E = typename R::Element;
  using Float = typename V::Float;
  const Float log2e = V::broadcast(kLog2E);
  for (std::int64_t row = begin; row < end; ++row) {
    const E* logits = static_cast<const E*>(params.logits) + row * params.classes;
    E* dlogits = static_cast<E*>(params.dlogits) + row * params.classes;
    const std::int64_t target = params.targets[row];
    if (target == params.ignore_index) {
      __builtin_memset(dlogits, 0, static_cast<std::size_t>(params.classes) * sizeof(E));
      continue;
    }
    const Float largest = V::broadcast(params.largest[row]), log_rest = V::broadcast(params.log_rest[row]);
    const Float gradient = V::broadcast(params.dlosses[row * params.dlosses_stride]);
    const auto probability = [&](const E* p, auto part)
                                 FASTBERT_INLINE { return exp2<V>(((R::load(p, part) - largest) - log_rest) * log2e); };
    for_row<V>(params.classes, [&](std::int64_t column, auto part, int) FASTBERT_INLINE {
      R::store(dlogits + column, gradient * probability(logits + column, part), part);
    });
    const Float of_target = probability(logits + target, Part{1}) - V::broadcast(1.0f);
    R::store(dlogits + target, gradient * of_target, Part{1});
  }
}

}  // namespace
}  // namespace fastbert
