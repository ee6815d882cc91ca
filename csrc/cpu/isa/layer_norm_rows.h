// LayerNorm of the residual sum, row by row. See ../layer_norm.h.
//
// A row is read from memory once and stays, as float32, in the nearest cache for the steps that follow: mean, variance
// (of the differences from the mean, in a pass of its own: the one-pass formula cancels), normalised output.
#pragma once

#include "../layer_norm.h"
#include "dropper.h"

namespace fastbert {
namespace {

// Room for one row of float32, and for the rest of its last vector.
class RowBuffer {
 public:
  explicit RowBuffer(std::int64_t columns) : far_(columns > kPieceColumns ? new float[columns + 64] : nullptr) {}
  ~RowBuffer() { delete[] far_; }
  RowBuffer(const RowBuffer&) = delete;
  RowBuffer& operator=(const RowBuffer&) = delete;

  float* data() { return far_ == nullptr ? near_ : far_; }

 private:
  float* far_;
  alignas(64) float near_[kPieceColumns];
};

template <class V, DType dtype, bool Drop>
void layer_norm_forward_rows(const LayerNormForwardParams& params, const PhiloxStreamKernels& philox,
                             std::int64_t begin, std::int64_t end) {
  using R = Row<V, dtype>;
  using F = Row<V, DType::float32>;
  using E = typename R::Element;
  using Float = typename V::Float;
  const std::int64_t columns = params.columns;
  Dropper<V, Drop> drop(params.dropout, philox);
  RowBuffer buffer(columns);
  float* const sums = buffer.data();
  for (std::int64_t row = begin; row < end; ++row) {
    E* out = static_cast<E*>(params.out) + row * columns;

    Sums<V> all;
    for_pieces(columns, [&](std::int64_t first, std::int64_t width) FASTBERT_INLINE {
      const E* x = static_cast<const E*>(params.x) + row * columns + first;
      const E* residual = static_cast<const E*>(params.residual) + row * columns + first;
      E* sum = params.sum == nullptr ? nullptr : static_cast<E*>(params.sum) + row * columns + first;
      drop.draw(row, first, width);
      for_row<V>(width, [&](std::int64_t column, auto part, int way) FASTBERT_INLINE {
        Float value = R::load(residual + column, part) + drop(R::load(x + column, part), column);
        if (sum != nullptr) {
          R::store(sum + column, value, part);
          if constexpr (dtype != DType::float32) value = R::load(sum + column, part);
        }
        V::store(sums + first + column, value);
        all.way[way] = all.way[way] + inside<V>(value, V::zero(), part);
      });
    });
    const float mean = all.total() / static_cast<float>(columns);

    const Float means = V::broadcast(mean);
    Sums<V> squares;
    for_row<V>(columns, [&](std::int64_t column, auto part, int way) FASTBERT_INLINE {
      const Float difference = inside<V>(V::load(sums + column) - means, V::zero(), part);
      squares.way[way] = V::multiply_add(difference, difference, squares.way[way]);
    });
    const float rstd = 1.0f / __builtin_sqrtf(squares.total() / static_cast<float>(columns) + params.eps);

    const Float scale = V::broadcast(rstd);
    for_row<V>(columns, [&](std::int64_t column, auto part, int) FASTBERT_INLINE {
      const Float normalised = (V::load(sums + column) - means) * scale;
      const Float weight = F::load(params.weight + column, part), bias = F::load(params.bias + column, part);
      R::store(out + column, V::multiply_add(normalised, weight, bias), part);
    });
    params.mean[row] = mean;
    params.rstd[row] = rstd;
  }
}

// dweight and dbias are (columns,): what these rows add to them.
template <class V, DType dtype, bool Drop, bool HasSum>
void layer_norm_backward_rows(const LayerNormBackwardParams& params, const PhiloxStreamKernels& philox,
                              std::int64_t begin, std::int64_t end, float* dweight, float* dbias) {
  using R = Row<V, dtype>;
  using F = Row<V, DType::float32>;
  using E = typename R::Element;
  using Float = typename V::Float;
  const std::int64_t columns = params.columns;
  Dropper<V, Drop> drop(params.dropout, philox);
  RowBuffer buffer(columns);
  float* const normals = buffer.data();
  for (std::int64_t column = 0; column < columns; ++column) dweight[column] = dbias[column] = 0.0f;
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t start = row * columns;
    const E* dout = static_cast<const E*>(params.dout) + start;
    const E* dsum = params.dsum == nullptr ? nullptr : static_cast<const E*>(params.dsum) + start;
    E* dresidual = static_cast<E*>(params.dresidual) + start;
    const Float mean = V::broadcast(params.mean[row]), rstd = V::broadcast(params.rstd[row]);

    Sums<V> sums_g, sums_gn;
    for_pieces(columns, [&](std::int64_t first, std::int64_t width) FASTBERT_INLINE {
      if constexpr (!HasSum) drop.draw(row, first, width);
      for_row<V>(width, [&](std::int64_t piece_column, auto part, int way) FASTBERT_INLINE {
        const std::int64_t column = first + piece_column;
        Float sum;
        if constexpr (HasSum) {
          sum = R::load(static_cast<const E*>(params.sum) + start + column, part);
        } else {
          sum = R::load(static_cast<const E*>(params.residual) + start + column, part) +
                drop(R::load(static_cast<const E*>(params.x) + start + column, part), piece_column);
        }
        const Float normalised = inside<V>((sum - mean) * rstd, V::zero(), part);
        V::store(normals + column, normalised);
        const Float gradient = R::load(dout + column, part);  // zero beyond the row, as are the products with it
        const Float g = gradient * F::load(params.weight + column, part);
        sums_g.way[way] = sums_g.way[way] + g;
        sums_gn.way[way] = V::multiply_add(g, normalised, sums_gn.way[way]);
        F::store(dweight + column, V::multiply_add(gradient, normalised, F::load(dweight + column, part)), part);
        F::store(dbias + column, gradient + F::load(dbias + column, part), part);
      });
    });
    const Float average_g = V::broadcast(sums_g.total() / static_cast<float>(columns));
    const Float average_gn = V::broadcast(sums_gn.total() / static_cast<float>(columns));

    for_pieces(columns, [&](std::int64_t first, std::int64_t width) FASTBERT_INLINE {
      drop.draw(row, first, width);
      E* dx = Drop ? static_cast<E*>(params.dx) + start + first : nullptr;
      for_row<V>(width, [&](std::int64_t piece_column, auto part, int) FASTBERT_INLINE {
        const std::int64_t column = first + piece_column;
        const Float g = R::load(dout + column, part) * F::load(params.weight + column, part);
        Float gradient = rstd * V::subtract_product(g - average_g, V::load(normals + column), average_gn);
        if (dsum != nullptr) gradient = gradient + R::load(dsum + column, part);
        R::store(dresidual + column, gradient, part);
        if constexpr (Drop) R::store(dx + piece_column, drop(gradient, piece_column), part);
      });
    });
  }
}

}  // namespace
}  // namespace fastbert
