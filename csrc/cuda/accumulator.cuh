// A warp's block of float32 results, and products of it: C += A B in fragments of m16n8k16.
//
// Accumulator<M, N> is 16 M rows by 8 N columns. In lane l, c[m][n] are the numbers at rows 16 m + l / 4 (+ 8 in
// numbers 2 and 3) and columns 8 n + 2 (l % 4) + {0, 1}.
#pragma once

#include "ptx.cuh"
#include "tile.cuh"

namespace fastbert {
namespace cuda {
namespace {

template <int M, int N>
struct Accumulator {
  float c[M][N][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) c[m][n][i] = 0.0f;
      }
    }
  }
};

// Row and column, in the warp's block, of number i of c[m][n].
__device__ __forceinline__ int fragment_row(int m, int i) {
  return 16 * m + static_cast<int>(threadIdx.x) % 32 / 4 + i / 2 * 8;
}
__device__ __forceinline__ int fragment_column(int n, int i) {
  return 8 * n + static_cast<int>(threadIdx.x) % 4 * 2 + i % 2;
}

// Columns 16 s to 16 s + 15 of an accumulator as an A operand: the layouts of C and A agree.
template <class Element, int M, int N>
__device__ __forceinline__ void as_a(std::uint32_t (&a)[4], const Accumulator<M, N>& x, int m, int s) {
  a[0] = pack<Element>(x.c[m][2 * s][0], x.c[m][2 * s][1]);
  a[1] = pack<Element>(x.c[m][2 * s][2], x.c[m][2 * s][3]);
  a[2] = pack<Element>(x.c[m][2 * s + 1][0], x.c[m][2 * s + 1][1]);
  a[3] = pack<Element>(x.c[m][2 * s + 1][2], x.c[m][2 * s + 1][3]);
}

// C += A B^T for 16 columns of A, where B is 8 N rows of the tile from `row` on, and 16 columns from `column` on.
template <class Element, int M, int N, class Tile>
__device__ __forceinline__ void multiply_columns(Accumulator<M, N>& x, const std::uint32_t (&a)[M][4], const Tile& tile,
                                                 int row, int column) {
#pragma unroll
  for (int n = 0; n < N; n += 2) {
    std::uint32_t b[4];
    load_b_of_columns(b, tile, row + 8 * n, column);
#pragma unroll
    for (int m = 0; m < M; ++m) {
      mma<Element>(x.c[m][n], a[m], b[0], b[1]);
      mma<Element>(x.c[m][n + 1], a[m], b[2], b[3]);
    }
  }
}

// C += A B for 16 columns of A, where B is 16 rows of the tile from `row` on, and 8 N columns from `column` on.
template <class Element, int M, int N, class Tile>
__device__ __forceinline__ void multiply_rows(Accumulator<M, N>& x, const std::uint32_t (&a)[M][4], const Tile& tile,
                                              int row, int column) {
#pragma unroll
  for (int n = 0; n < N; n += 2) {
    std::uint32_t b[4];
    load_b_of_rows(b, tile, row, column + 8 * n);
#pragma unroll
    for (int m = 0; m < M; ++m) {
      mma<Element>(x.c[m][n], a[m], b[0], b[1]);
      mma<Element>(x.c[m][n + 1], a[m], b[2], b[3]);
    }
  }
}

}  // namespace
}  // namespace cuda
}  // namespace fastbert
