// Rows of scores to weights, block of keys by block of keys (Milakov and Gimelshein, "Online normalizer calculation for
// softmax", 2018).
//
// Weights are 2^(factor s - base), factor = scale log2(e) > 0, and base is the largest factor s of its row so far, or
// up to kSlack below it. It follows the largest only when that outgrows it: after a row's first keys that is rare, and
// without it a tile needs no exchange between lanes and no correction of O. Weights reach 2^kSlack then, which float16
// holds, and keep their relative precision. A row's first tile sets base to its largest score, so that a row that sees
// one key weighs it with 1.
//
// base is rounded once, and weights and lse take the same one: its rounding, 2^-24 of the largest score, is a factor of
// P and of its sum alike. The fused multiply-add saves an instruction a score against the difference first. Four lanes
// hold a row; base is the same in them, sums are added up once, at the end.
#pragma once

#include "accumulator.cuh"

namespace fastbert {
namespace cuda {
namespace {

// A row's base before its first key: below any score of numbers below 1e18, and finite, so that no difference is NaN.
constexpr float kNoBase = -1e38f;
constexpr float kSlack = 8.0f;

// Over the four lanes that hold a row.
__device__ __forceinline__ float largest_of_row(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, 2));
}
__device__ __forceinline__ float sum_of_row(float x) {
  x += __shfl_xor_sync(0xFFFFFFFFu, x, 1);
  return x + __shfl_xor_sync(0xFFFFFFFFu, x, 2);
}

// Of the 16 M rows of a warp: [m][0] is row 16 m + l / 4, [m][1] the one 8 below.
template <int M>
struct Softmax {
  float factor;
  float base[M][2];
  float sum[M][2];  // of the weights this lane has seen, before dropout

  __device__ __forceinline__ explicit Softmax(float factor) : factor(factor) {
#pragma unroll
    for (int m = 0; m < M; ++m) base[m][0] = base[m][1] = kNoBase, sum[m][0] = sum[m][1] = 0.0f;
  }

  // Looks at all scores of a tile; -inf where nothing is seen. Moves bases where they must be, and what hangs on them.
  template <int N, int D>
  __device__ __forceinline__ void meet(const Accumulator<M, N>& scores, Accumulator<M, D>& out) {
    float largest[M][2];
    bool outgrown = false;
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float most = fmaxf(scores.c[m][0][2 * half], scores.c[m][0][2 * half + 1]);
#pragma unroll
        for (int n = 1; n < N; ++n) {
          most = fmaxf(most, fmaxf(scores.c[m][n][2 * half], scores.c[m][n][2 * half + 1]));
        }
        largest[m][half] = most * factor;
        outgrown |= largest[m][half] > base[m][half] + kSlack;
      }
    }
    if (__any_sync(0xFFFFFFFFu, outgrown)) raise(largest, out);
  }

  // Columns 16 s to 16 s + 15 of a tile: scores to weights.
  template <int N>
  __device__ __forceinline__ void weigh(Accumulator<M, N>& scores, int s) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
      for (int n = 2 * s; n < 2 * s + 2; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float& x = scores.c[m][n][i];
          x = exp2_approximate(fmaf(x, factor, -base[m][i / 2]));
          sum[m][i / 2] += x;
        }
      }
    }
  }

 private:
  template <int D>
  __device__ __forceinline__ void raise(const float (&largest)[M][2], Accumulator<M, D>& out) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float& mine = base[m][half];
        const float most = largest_of_row(largest[m][half]);
        const float next = most > mine + kSlack ? most : mine;  // a row does not depend on its neighbours
        const float correction = exp2_approximate(mine - next);
        mine = next;
        sum[m][half] *= correction;
#pragma unroll
        for (int n = 0; n < D; ++n) out.c[m][n][2 * half] *= correction, out.c[m][n][2 * half + 1] *= correction;
      }
    }
  }
};

}  // namespace
}  // namespace cuda
}  // namespace fastbert
