// Small matrix products from packed operands: the one place where attention's arithmetic happens.
//
//   C[i][j] (+)= sum over s of A[i][s] * B[s][j]
//
// A is read one number at a time, at any two strides, so a transposed operand needs no copy. B is read in vectors along
// j, from panels of 2 vectors: panel p holds columns 2 * lanes * p onwards, and its rows are `step` floats apart. C is
// computed in strips of V::strip_rows rows by one panel, all of it in registers; each of its elements is one chain of
// fused multiply-adds in the order of s, so the result depends on nothing but the operands. What C held is added to the
// end of the chain, not to its start: gradients summed over 1,025 rows had 2.5 times the error of a blocked product.
#pragma once

#include <cstddef>

namespace fastbert {
namespace {

struct Left {
  const float* data;
  std::ptrdiff_t row, step;
};

struct Product {
  float* data;
  std::ptrdiff_t row;
};

template <class V, int Rows, int Vectors, bool Accumulate>
inline __attribute__((always_inline)) void multiply_block(const Left& a, const float* b, std::ptrdiff_t b_step,
                                                          const Product& c, int steps) {
  using Float = typename V::Float;
  Float sums[Rows][Vectors];  // GCC 12 puts them on the stack around the loop unless it is told to unroll
#pragma GCC unroll 12
  for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 2
    for (int vector = 0; vector < Vectors; ++vector) sums[row][vector] = V::zero();
  }
  const float* left = a.data;
  for (int s = 0; s < steps; ++s, left += a.step, b += b_step) {
    Float right[Vectors];
#pragma GCC unroll 2
    for (int vector = 0; vector < Vectors; ++vector) right[vector] = V::load(b + vector * V::lanes);
#pragma GCC unroll 12
    for (int row = 0; row < Rows; ++row) {
      const Float scalar = V::broadcast(left[row * a.row]);
#pragma GCC unroll 2
      for (int vector = 0; vector < Vectors; ++vector) {
        sums[row][vector] = V::multiply_add(scalar, right[vector], sums[row][vector]);
      }
    }
  }
#pragma GCC unroll 12
  for (int row = 0; row < Rows; ++row) {
#pragma GCC unroll 2
    for (int vector = 0; vector < Vectors; ++vector) {
      float* out = c.data + row * c.row + vector * V::lanes;
      V::store(out, Accumulate ? V::load(out) + sums[row][vector] : sums[row][vector]);
    }
  }
}

template <class V, int Rows, bool Accumulate>
void multiply_rows(const Left& a, const float* b, std::ptrdiff_t b_step, const Product& c, int vectors, int steps) {
  if (vectors == 2) {
    multiply_block<V, Rows, 2, Accumulate>(a, b, b_step, c, steps);
  } else {
    multiply_block<V, Rows, 1, Accumulate>(a, b, b_step, c, steps);
  }
}

// A strip of at most V::strip_rows rows by one panel.
template <class V, bool Accumulate, int Rows = V::strip_rows>
void multiply_strip(int rows, const Left& a, const float* b, std::ptrdiff_t b_step, const Product& c, int vectors,
                    int steps) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return multiply_strip<V, Accumulate, Rows - 1>(rows, a, b, b_step, c, vectors, steps);
  }
  multiply_rows<V, Rows, Accumulate>(a, b, b_step, c, vectors, steps);
}

}  // namespace
}  // namespace fastbert
