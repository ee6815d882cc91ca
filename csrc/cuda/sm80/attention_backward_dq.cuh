// How gradients leave a block: rounded to 16 bits, or added to float32 sums that several blocks share.
//
// With turns, blocks add to a tile of queries one after the other, so that sums are the same bits on every run: first
// the last tile of keys that the queries see, then the one before it. Blocks of later tiles have lower numbers
// (place_of) and are begun earlier, so a block waits only for blocks that run or have ended.
#pragma once

#include <cstdint>

#include "../accumulator.cuh"
#include "../sequence.cuh"
#include "../stray_rows.cuh"

namespace fastbert {
namespace cuda {
namespace {

// Of four neighbouring lanes, word j of lane i and word i of lane j change places.
__device__ __forceinline__ void transpose_quad(std::uint32_t (&x)[4]) {
  const unsigned thread = fresh_thread();
  const bool odd = thread % 2 != 0, upper = thread / 2 % 2 != 0;
#pragma unroll
  for (int j = 0; j < 4; j += 2) {
    const std::uint32_t got = __shfl_xor_sync(0xFFFFFFFFu, odd ? x[j] : x[j + 1], 1);
    (odd ? x[j] : x[j + 1]) = got;
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const std::uint32_t got = __shfl_xor_sync(0xFFFFFFFFu, upper ? x[j] : x[j + 2], 2);
    (upper ? x[j] : x[j + 2]) = got;
  }
}

// Where 16-bit gradients of one head go: contiguous (rows, heads, head_dim), from the row and column of the warp's
// first number on.
struct GradientRows {
  std::uint16_t* data;
  std::int64_t stride;
  int rows, columns;  // that exist

  __device__ __forceinline__ GradientRows(const AttentionParams& params, void* data, std::int64_t row,
                                          std::int64_t heads, std::int64_t head, int column, int rows)
      : data(static_cast<std::uint16_t*>(data) + (row * heads + head) * params.head_dim + column),
        stride(heads * params.head_dim),
        rows(rows),
        columns(static_cast<int>(params.head_dim) - column) {}
};

// factor times the accumulator, rounded. Lanes exchange words so that each one writes 16 bytes.
template <class Element, int M, int N>
__device__ __forceinline__ void store_rounded(const Accumulator<M, N>& x, float factor, const GradientRows& to) {
  const int thread = fresh_thread() % 32, first_row = thread / 4, lane = thread % 4;
#pragma unroll
  for (int m = 0; m < M; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + 16 * m + 8 * half;
      std::uint16_t* const start = to.data + row * to.stride;
      const auto word = [&](int n) {
        return pack<Element>(x.c[m][n][2 * half] * factor, x.c[m][n][2 * half + 1] * factor);
      };
#pragma unroll
      for (int n = 0; n + 4 <= N; n += 4) {
        std::uint32_t words[4] = {word(n), word(n + 1), word(n + 2), word(n + 3)};
        transpose_quad(words);
        const int column = 8 * (n + lane);
        if (row >= to.rows || column >= to.columns) continue;
        *reinterpret_cast<uint4*>(start + column) = uint4{words[0], words[1], words[2], words[3]};
      }
      if constexpr (N % 4 == 2) {
        const std::uint32_t low = word(N - 2), high = word(N - 1);
        const bool odd = lane % 2 != 0;
        const std::uint32_t got = __shfl_xor_sync(0xFFFFFFFFu, odd ? low : high, 1);
        const int column = 8 * (N - 2 + lane % 2) + lane / 2 * 4;
        if (row >= to.rows || column >= to.columns) continue;
        *reinterpret_cast<uint2*>(start + column) = odd ? uint2{got, high} : uint2{low, got};
      }
    }
  }
}

// Adds the accumulator to float32 rows, from the row and column of the warp's first number on.
template <bool Atomic, int M, int N>
__device__ __forceinline__ void add_to_sums(const Accumulator<M, N>& x, float* sums, std::int64_t stride, int rows,
                                            int columns) {
  const int lane = fresh_thread() % 32, first_row = lane / 4, first_column = lane % 4 * 2;
#pragma unroll
  for (int m = 0; m < M; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + 16 * m + 8 * half;
      if (row >= rows) continue;
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const int column = first_column + 8 * n;
        if (column >= columns) continue;
        float* const to = sums + row * stride + column;
        const float first = x.c[m][n][2 * half], second = x.c[m][n][2 * half + 1];
        if constexpr (Atomic) {
          add_atomically(to, first, second);
        } else {
          float2* const pair = reinterpret_cast<float2*>(to);
          const float2 sum = *pair;
          *pair = float2{sum.x + first, sum.y + second};
        }
      }
    }
  }
}

// The turn of one tile of keys at one tile of queries. For one thread of the block.
struct Turn {
  std::uint32_t* taken;
  std::uint32_t mine;

  // `visible` is what the queries see, of which `key` begins a tile of `keys`.
  __device__ __forceinline__ Turn(std::uint32_t* taken, Range visible, int key, int keys)
      : taken(taken), mine(static_cast<std::uint32_t>((visible.end - 1) / keys - key / keys)) {}

  __device__ __forceinline__ void await() const {
    while (load_acquire(taken) < mine) __nanosleep(32);
  }
  __device__ __forceinline__ void end() const { add_release(taken, 1); }
};

// Zeros in dq of a sequence's queries outside [tiles.begin, tiles.end), for the heads that share a key head.
template <int Threads>
__device__ __forceinline__ void clear_dq_outside(const BackwardKernelParams& params, const Sequence& sequence,
                                                 int kv_head, Range tiles) {
  const int heads = static_cast<int>(params.heads / params.kv_heads);
  const int chunks = heads * (static_cast<int>(params.head_dim) / kChunk);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  for (int query = warp; query < sequence.seq_q; query += Threads / 32) {
    if (tiles.begin <= query && query < tiles.end) continue;
    const std::int64_t row = row_q(params, sequence, query) * params.heads + kv_head * heads;
    uint4* const to = reinterpret_cast<uint4*>(static_cast<std::uint16_t*>(params.dq) + row * params.head_dim);
    for (int i = lane; i < chunks; i += 32) to[i] = uint4{0, 0, 0, 0};
  }
}

// Zeros in dk and dv, and in dq where no other kernel writes it, of rows of a packed call that no sequence owns.
template <int Threads>
__device__ __forceinline__ void clear_stray_gradients(const BackwardKernelParams& params, const BlockPlace& place) {
  const auto clear = [&](void* data, const std::int32_t* cu_seqlens, std::int64_t total, std::int64_t heads,
                         std::int64_t head) {
    clear_stray_rows<Threads>(data, cu_seqlens, params.batch, total, heads, params.head_dim, head, place.tile,
                              params.grid.tiles);
  };
  clear(params.dk, params.cu_seqlens_k, params.total_k, params.kv_heads, place.head);
  clear(params.dv, params.cu_seqlens_k, params.total_k, params.kv_heads, place.head);
  if (params.dq_sum != nullptr) return;
  const std::int64_t group = params.heads / params.kv_heads;
  for (std::int64_t head = place.head * group; head < (place.head + 1) * group; ++head) {
    clear(params.dq, params.cu_seqlens_q, params.total_q, params.heads, head);
  }
}

}  // namespace
}  // namespace cuda
}  // namespace fastbert
