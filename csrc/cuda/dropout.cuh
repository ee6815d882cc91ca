// Which attention weights survive: the defined random bytes, in the layouts of the tensor core's results.
//
// One philox block serves 16 scores of a tile of 16 queries x 32 keys: query i, key j has counter
// ((j / 32) * 32 + (i % 8) * 4 + (j % 8) / 2, i / 16, sequence * heads + head, offset), and takes byte
// (j % 2) + 2 * ((i % 16) / 8) of word (j % 32) / 8. Where rows are queries, those are a lane's own 16 numbers of
// Accumulator<1, 4>, and the lane's number is the low part of the counter. Where rows are keys (S^T), a lane's two
// neighbouring queries have different counters, and lanes l and l ^ 4 (keys j and j + 1) share them: each computes one
// and they swap.
#pragma once

#include <cstdint>

#include "../common/philox.h"
#include "kernel_params.h"
#include "ptx.cuh"

namespace fastbert {
namespace cuda {
namespace {

struct Dropout {
  PhiloxKey key;
  std::uint32_t head, offset;  // counter words 2 and 3
  std::uint32_t threshold;

  __device__ __forceinline__ Dropout(const AttentionParams& params, const std::uint64_t* rng, std::int64_t sequence,
                                     std::int64_t query_head)
      : key(philox_key(rng[0])),
        head(static_cast<std::uint32_t>(sequence * params.heads + query_head)),
        offset(static_cast<std::uint32_t>(rng[1])),
        threshold(static_cast<std::uint32_t>(params.dropout_threshold)) {}

  __device__ __forceinline__ PhiloxBlock block(int query_tile, int key_tile, int place) const {
    return philox4x32(
        {{static_cast<std::uint32_t>(key_tile * 32 + place), static_cast<std::uint32_t>(query_tile), head, offset}},
        key);
  }

  // The top bit of every byte of a word: whether it keeps its weight. The others mean nothing.
  __device__ __forceinline__ std::uint32_t kept(std::uint32_t word) const {
    constexpr std::uint32_t kTop = 0x80808080u;
    const std::uint32_t every = threshold * 0x01010101u;
    const std::uint32_t low = (word | kTop) - (every & ~kTop);  // top bits: whether the lower 7 reach the threshold's
    return (word & ~every) | (~(word ^ every) & low);
  }

  // Drops from columns 16 s to 16 s + 15 of a tile of 16 queries x 32 keys, as an A operand.
  __device__ __forceinline__ void drop(std::uint32_t (&a)[4], const PhiloxBlock& random, int s) const {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const std::uint32_t keeps = kept(random.word[2 * s + n]);
      a[2 * n] &= spread_top_bits<0>(keeps);
      a[2 * n + 1] &= spread_top_bits<1>(keeps);
    }
  }
};

// Which weights of P^T a lane keeps, for 16 M keys and 8 N queries: a bit for each of its numbers.
template <int M, int N>
struct KeptWeights {
  std::uint32_t bits;

  // `query` and `key` are row 0 and column 0 of P, multiples of 16.
  __device__ __forceinline__ void draw(const Dropout& dropout, int query, int key) {
    const int lane = fresh_thread() % 32, odd = lane / 4 % 2;  // odd key, and the query whose block the lane computes
    const std::uint32_t mine = odd != 0 ? 0x7531 : 0x6420, others = mine ^ 0x1111;
    bits = 0;
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      const PhiloxBlock random = dropout.block(query / 16 + n / 2, key >> 5, (lane % 4 * 2 + odd) * 4 + lane / 8);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        // M = 1: the words of the half of the 32 keys that `key` begins.
        const bool second = M == 1 && key / 16 % 2 != 0;
        const std::uint32_t low = second ? random.word[2] : random.word[2 * m];
        const std::uint32_t high = second ? random.word[3] : random.word[2 * m + 1];
        const std::uint32_t own = __byte_perm(low, high, mine);
        const std::uint32_t swapped = __shfl_xor_sync(0xFFFFFFFFu, __byte_perm(low, high, others), 4);
        const int turn = 2 * (n / 2 * M + m);
        bits |= (dropout.kept(odd != 0 ? swapped : own) & 0x80808080u) >> turn;
        bits |= (dropout.kept(odd != 0 ? own : swapped) & 0x80808080u) >> (turn + 1);
      }
    }
  }

  // Number i of c[m][n].
  __device__ __forceinline__ bool operator()(int m, int n, int i) const {
    const int byte = i / 2 * 2 + n % 2, turn = 2 * (n / 2 * M + m) + i % 2;
    return bits >> (8 * byte + 7 - turn) & 1;
  }
};

// In the place of Dropout where there is none.
struct NoDropout {
  __device__ __forceinline__ NoDropout(const AttentionParams&, const std::uint64_t*, std::int64_t, std::int64_t) {}
};

// What survivors are multiplied by: one over the probability really used.
__device__ __forceinline__ float survivor_scale(const AttentionParams& params) {
  return 256.0f * __frcp_rn(static_cast<float>(256 - params.dropout_threshold));
}

}  // namespace
}  // namespace cuda
}  // namespace fastbert
