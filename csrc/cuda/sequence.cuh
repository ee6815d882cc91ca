// Where a block's sequence lies, and which of its keys a query sees: integers only.
//
// The device reads cumulative lengths and clamps them to the buffers, since the host must not read them. Rows and keys
// count inside their sequence and fit in 31 bits; offsets into tensors have 64.
#pragma once

#include <cstdint>

#include "kernel_params.h"
#include "tile.cuh"

namespace fastbert {
namespace cuda {
namespace {

struct Range {
  int begin, end;  // half-open
  __device__ __forceinline__ bool empty() const { return begin >= end; }
};

struct Sequence {
  int index;                      // in the batch
  std::int64_t first_q, first_k;  // rows of the packed tensors; 0 for dense calls
  int seq_q, seq_k;
};

__device__ __forceinline__ std::int64_t clamped(std::int64_t x, std::int64_t low, std::int64_t high) {
  return x < low ? low : x > high ? high : x;
}

// Sequence `index` of one side: its first row and its length, whatever cu_seqlens holds.
__device__ __forceinline__ int length_of(const std::int32_t* cu_seqlens, int index, std::int64_t total,
                                         std::int64_t most, std::int64_t& first) {
  first = clamped(cu_seqlens[index], 0, total);
  const std::int64_t past = clamped(cu_seqlens[index + 1], first, total);
  return static_cast<int>(past - first < most ? past - first : most);
}

__device__ __forceinline__ Sequence sequence_of(const AttentionParams& params, int index) {
  if (params.cu_seqlens_q == nullptr) {
    return {index, 0, 0, static_cast<int>(params.seq_q), static_cast<int>(params.seq_k)};
  }
  Sequence sequence{index, 0, 0, 0, 0};
  sequence.seq_q = length_of(params.cu_seqlens_q, index, params.total_q, params.seq_q, sequence.first_q);
  sequence.seq_k = length_of(params.cu_seqlens_k, index, params.total_k, params.seq_k, sequence.first_k);
  return sequence;
}

// The keys that query i sees are the j in [i + first, i + past) that exist; both ends move on with i.
struct Band {
  int first, past, seq_q, seq_k;

  __device__ __forceinline__ Range keys(int query) const { return keys(query, query + 1); }

  // Seen by any of the queries [begin, end).
  __device__ __forceinline__ Range keys(int begin, int end) const {
    const Range seen{max(begin + first, 0), min(end - 1 + past, seq_k)};
    return begin < end && first < past && seen.begin < seen.end ? seen : Range{0, 0};
  }

  // That see any of the keys [begin, end).
  __device__ __forceinline__ Range queries(int begin, int end) const {
    const Range seeing{max(begin - past + 1, 0), min(end - first, seq_q)};
    return begin < end && first < past && seeing.begin < seeing.end ? seeing : Range{0, 0};
  }

  // Whether every one of the queries sees every one of the keys.
  __device__ __forceinline__ bool covers(Range queries, Range keys) const {
    return queries.end - 1 + first <= keys.begin && keys.end <= queries.begin + past && keys.end <= seq_k;
  }
};

__device__ __forceinline__ Band band_of(const AttentionParams& params, const Sequence& sequence) {
  // Sums of two of these and a length stay within an int: the plan refuses longer sequences than kMostRows.
  constexpr std::int64_t kFar = std::int64_t{1} << 29;
  const int diagonal = sequence.seq_k - sequence.seq_q;
  return {static_cast<int>(clamped(diagonal - params.window_left, -kFar, kFar)),
          static_cast<int>(clamped(diagonal + params.window_right + 1, -kFar, kFar)), sequence.seq_q, sequence.seq_k};
}

// Row `row` of a head of a tensor with strides, as the start of rows.
__device__ __forceinline__ GlobalRows rows_of(const AttentionParams& params, const void* data,
                                              const AttentionStrides& strides, std::int64_t batch, std::int64_t first,
                                              std::int64_t head) {
  return {static_cast<const std::uint16_t*>(data) + batch * strides.batch + first * strides.row + head * strides.head,
          strides.row, static_cast<int>(params.head_dim)};
}

// Row of a contiguous (batch, seq_q, …) or (total_q, …) tensor.
__device__ __forceinline__ std::int64_t row_q(const AttentionParams& params, const Sequence& sequence, int query) {
  return params.cu_seqlens_q == nullptr ? sequence.index * params.seq_q + query : sequence.first_q + query;
}
__device__ __forceinline__ std::int64_t row_k(const AttentionParams& params, const Sequence& sequence, int key) {
  return params.cu_seqlens_k == nullptr ? sequence.index * params.seq_k + key : sequence.first_k + key;
}

// Place in lse: (batch, heads, seq_q) or (heads, total_q).
__device__ __forceinline__ std::int64_t lse_index(const AttentionParams& params, const Sequence& sequence,
                                                  std::int64_t head, int query) {
  if (params.cu_seqlens_q == nullptr) return (sequence.index * params.heads + head) * params.seq_q + query;
  return head * params.total_q + sequence.first_q + query;
}

// Which tile, head and sequence a block computes. Later tiles come first: under a causal mask those of queries take
// longest.
struct BlockPlace {
  int tile, head, sequence;
  bool idle;
};

__device__ __forceinline__ BlockPlace place_of(const BlockGrid& grid, std::int64_t heads) {
  // Sequences times heads fit in 31 bits, and so do all blocks of a grid of one dimension: 32-bit divisions, which are
  // several times shorter. A block can do nothing else before it knows its place.
  const std::uint32_t tiles = static_cast<std::uint32_t>(grid.tiles), count = static_cast<std::uint32_t>(heads);
  std::int64_t block = blockIdx.x;
  std::uint32_t rest;
  if (gridDim.y == 1) {
    rest = blockIdx.x / tiles;
  } else {
    block += static_cast<std::int64_t>(blockIdx.y) * gridDim.x;
    rest = static_cast<std::uint32_t>(block / grid.tiles);
  }
  const std::uint32_t before = static_cast<std::uint32_t>(block - static_cast<std::int64_t>(rest) * grid.tiles);
  return {static_cast<int>(tiles - 1 - before), static_cast<int>(rest % count), static_cast<int>(rest / count),
          block >= grid.blocks};
}

// The key head that a query head reads.
__device__ __forceinline__ int kv_head_of(const AttentionParams& params, int head) {
  if (params.heads == params.kv_heads) return head;
  return static_cast<int>(static_cast<std::uint32_t>(head) /
                          (static_cast<std::uint32_t>(params.heads) / static_cast<std::uint32_t>(params.kv_heads)));
}

}  // namespace
}  // namespace cuda
}  // namespace fastbert
