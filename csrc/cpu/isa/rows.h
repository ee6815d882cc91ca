// Rows of activations as vectors of float32, whichever of the three types they are stored in.
#pragma once

#include <cstdint>
#include <cstring>

#include "../../common/dtype.h"

// Loop bodies are inlined always: left alone, the compiler calls the larger ones, and their constants go through memory
// (a quarter to a half slower).
#define FASTBERT_INLINE __attribute__((always_inline))

namespace fastbert {
namespace {

// How much of a vector a step along a row covers: all of it, or the row's last columns.
struct Whole {};
struct Part {
  int count;
};

template <class V, DType dtype>
struct Row;

// What the three types share: `Own` loads and stores whole vectors of `E`.
template <class V, class Own, class E>
struct RowOf {
  using Element = E;
  using Float = typename V::Float;

  static FASTBERT_INLINE Float load(const E* p, Whole) { return Own::load(p); }
  static Float load(const E* p, Part part) {  // zeros beyond the row
    E vector[V::lanes] = {};
    std::memcpy(vector, p, static_cast<std::size_t>(part.count) * sizeof(E));
    return Own::load(vector);
  }
  static FASTBERT_INLINE void store(E* p, Float x, Whole) { Own::store(p, x); }
  static void store(E* p, Float x, Part part) {
    E vector[V::lanes];
    Own::store(vector, x);
    std::memcpy(p, vector, static_cast<std::size_t>(part.count) * sizeof(E));
  }
};

template <class V>
struct Row<V, DType::float32> : RowOf<V, Row<V, DType::float32>, float> {
  using RowOf<V, Row, float>::load;
  using RowOf<V, Row, float>::store;
  static typename V::Float load(const float* p) { return V::load(p); }
  static void store(float* p, typename V::Float x) { V::store(p, x); }
};

template <class V>
struct Row<V, DType::bfloat16> : RowOf<V, Row<V, DType::bfloat16>, std::uint16_t> {
  using RowOf<V, Row, std::uint16_t>::load;
  using RowOf<V, Row, std::uint16_t>::store;
  static typename V::Float load(const std::uint16_t* p) { return V::load_bfloat16(p); }
  static void store(std::uint16_t* p, typename V::Float x) { V::store_bfloat16(p, x); }
};

template <class V>
struct Row<V, DType::float16> : RowOf<V, Row<V, DType::float16>, std::uint16_t> {
  using RowOf<V, Row, std::uint16_t>::load;
  using RowOf<V, Row, std::uint16_t>::store;
  static typename V::Float load(const std::uint16_t* p) { return V::load_float16(p); }
  static void store(std::uint16_t* p, typename V::Float x) { V::store_float16(p, x); }
};

// body(column, Whole or Part, way) for every vector of a row. Two ways in turn, for sums that would else wait for the
// one before; constants, so that what they index stays in registers.
template <class V, class Body>
inline FASTBERT_INLINE void for_row(std::int64_t columns, const Body& body) {
  std::int64_t column = 0;
  for (; column + 2 * V::lanes <= columns; column += 2 * V::lanes) {
    body(column, Whole{}, 0);
    body(column + V::lanes, Whole{}, 1);
  }
  if (column + V::lanes <= columns) {
    body(column, Whole{}, 0);
    column += V::lanes;
  }
  if (column < columns) body(column, Part{static_cast<int>(columns - column)}, 1);
}

// x, and something else in the lanes beyond the row.
template <class V>
inline FASTBERT_INLINE typename V::Float inside(typename V::Float x, typename V::Float, Whole) {
  return x;
}
template <class V>
inline FASTBERT_INLINE typename V::Float inside(typename V::Float x, typename V::Float otherwise, Part part) {
  return V::select(V::in_range(0, 0, part.count), x, otherwise);
}

// One number a way and lane.
template <class V>
struct Sums {
  typename V::Float way[2] = {V::zero(), V::zero()};

  float total() const { return V::sum(way[0] + way[1]); }
};

}  // namespace
}  // namespace fastbert
