// Dropout and the residual sum, row by row. See ../elementwise_dropout.h.
#pragma once

#include "../elementwise_dropout.h"
#include "dropper.h"

namespace fastbert {
namespace {

template <class V, DType dtype, bool Residual>
void dropout_add_rows(const DropoutAddParams& params, const PhiloxStreamKernels& philox, std::int64_t begin,
                      std::int64_t end) {
  using R = Row<V, dtype>;
  using E = typename R::Element;
  Dropper<V, true> drop(params.dropout, philox);
  for (std::int64_t row = begin; row < end; ++row) {
    for_pieces(params.columns, [&](std::int64_t first, std::int64_t columns) FASTBERT_INLINE {
      const std::int64_t start = row * params.columns + first;
      const E* x = static_cast<const E*>(params.x) + start;
      const E* residual = Residual ? static_cast<const E*>(params.residual) + start : nullptr;
      E* out = static_cast<E*>(params.out) + start;
      drop.draw(row, first, columns);
      for_row<V>(columns, [&](std::int64_t column, auto part, int) FASTBERT_INLINE {
        auto sum = drop(R::load(x + column, part), column);
        if constexpr (Residual) sum = sum + R::load(residual + column, part);
        R::store(out + column, sum, part);
      });
    });
  }
}

}  // namespace
}  // namespace fastbert
