// Before and after the backward, where sequences are longer than one tile of keys: rows of queries, any head_dim.
//
//   prepare: delta = rowsum(dO O) - dlse, float32 as lse; zeros in dq_sum and in turns
//   finish:  dq = scale dq_sum, and zeros in the rows that no sequence owns
//
// A block is kBackwardRows rows of one head of one sequence. A row is read by as many neighbouring lanes as it has
// chunks of 16 bytes, rounded up to a power of two. Rows that see no key (lse = -inf) are not read: their delta and
// their dq are 0.
#pragma once

#include <cmath>
#include <cstdint>

#include "../kernel_params.h"
#include "../sequence.cuh"
#include "../stray_rows.cuh"
#include "../tile_choice.h"

namespace fastbert {
namespace cuda {
namespace {

// Which chunk of which rows a thread has.
struct RowShare {
  int lanes;  // of a row
  int row, rows_at_once, chunk;
  bool present;  // the row has this chunk

  __device__ __forceinline__ explicit RowShare(int head_dim) {
    const int chunks = head_dim / kChunk, thread = static_cast<int>(threadIdx.x);
    lanes = 1 << (32 - __clz(chunks - 1));
    row = thread / lanes;
    rows_at_once = kBackwardRowsThreads / lanes;
    chunk = thread % lanes;
    present = chunk < chunks;
  }
};

// The sum over the lanes of a row, in all of them.
__device__ __forceinline__ float sum_of_lanes(float x, int lanes) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, distance);
  return x;
}

template <class Element>
__device__ __forceinline__ float dot(const uint4& a, const uint4& b) {
  const std::uint32_t x[4] = {a.x, a.y, a.z, a.w}, y[4] = {b.x, b.y, b.z, b.w};
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 p = unpack<Element>(x[i]), q = unpack<Element>(y[i]);
    sum = fmaf(p.y, q.y, fmaf(p.x, q.x, sum));
  }
  return sum;
}

__device__ __forceinline__ void clear_turns(const BackwardKernelParams& params) {
  if (params.turns == nullptr) return;
  const std::int64_t block = blockIdx.y * static_cast<std::int64_t>(gridDim.x) + blockIdx.x;
  const std::int64_t count = params.heads * params.turns_of_head,
                     blocks = gridDim.x * static_cast<std::int64_t>(gridDim.y);
  for (std::int64_t i = block * kBackwardRowsThreads + threadIdx.x; i < count; i += blocks * kBackwardRowsThreads) {
    params.turns[i] = 0;
  }
}

template <class Element>
__device__ __forceinline__ void prepare_rows(const BackwardKernelParams& params) {
  clear_turns(params);
  const BlockPlace place = place_of(params.rows, params.heads);
  if (place.idle || place.sequence == params.batch) return;
  const Sequence sequence = sequence_of(params, place.sequence);
  const int head_dim = static_cast<int>(params.head_dim), first = place.tile * kBackwardRows;
  const RowShare share(head_dim);
  const std::int64_t place_of_lse = lse_index(params, sequence, place.head, first);
  const std::int64_t stride = params.heads * params.head_dim;
  const std::int64_t offset = row_q(params, sequence, first) * stride + place.head * params.head_dim;
  const GlobalRows dout =
      rows_of(params, params.dout, params.dout_strides, sequence.index, sequence.first_q, place.head);
#pragma unroll 4
  for (int start = 0; start < kBackwardRows; start += share.rows_at_once) {
    const int row = start + share.row;
    const bool exists = row < kBackwardRows && first + row < sequence.seq_q;
    const bool sees = exists && params.lse[place_of_lse + row] != -INFINITY;
    float sum = 0.0f;
    if (sees && share.present && dout.data != nullptr) {
      const std::int64_t column = share.chunk * kChunk;
      const std::uint16_t* const out = static_cast<const std::uint16_t*>(params.out) + offset + row * stride + column;
      sum = dot<Element>(*reinterpret_cast<const uint4*>(dout.data + (first + row) * dout.stride + column),
                         *reinterpret_cast<const uint4*>(out));
    }
    sum = sum_of_lanes(sum, share.lanes);
    if (!exists || !share.present) continue;
    float4* const total = reinterpret_cast<float4*>(params.dq_sum + offset + row * stride + share.chunk * kChunk);
    total[0] = total[1] = float4{0.0f, 0.0f, 0.0f, 0.0f};
    if (share.chunk != 0) continue;
    if (sees && params.dlse != nullptr) sum -= params.dlse[place_of_lse + row];
    params.delta[place_of_lse + row] = sum;
  }
}

template <class Element>
__device__ __forceinline__ void finish_rows(const BackwardKernelParams& params) {
  const BlockPlace place = place_of(params.rows, params.heads);
  if (place.idle) return;
  if (place.sequence == params.batch) {
    clear_stray_rows<kBackwardRowsThreads>(params.dq, params.cu_seqlens_q, params.batch, params.total_q, params.heads,
                                           params.head_dim, place.head, place.tile, params.rows.tiles);
    return;
  }
  const Sequence sequence = sequence_of(params, place.sequence);
  const int head_dim = static_cast<int>(params.head_dim), first = place.tile * kBackwardRows;
  const RowShare share(head_dim);
  if (!share.present) return;
  const float* const lse = params.lse + lse_index(params, sequence, place.head, first);
  const std::int64_t stride = params.heads * params.head_dim;
  const std::int64_t offset =
      row_q(params, sequence, first) * stride + place.head * params.head_dim + share.chunk * kChunk;
  const float scale = params.scale;
#pragma unroll 4
  for (int row = share.row; row < kBackwardRows; row += share.rows_at_once) {
    if (first + row >= sequence.seq_q) return;
    uint4 packed{0, 0, 0, 0};
    if (lse[row] != -INFINITY) {
      const float4* const sum = reinterpret_cast<const float4*>(params.dq_sum + offset + row * stride);
      const float4 low = sum[0], high = sum[1];
      packed = {pack<Element>(scale * low.x, scale * low.y), pack<Element>(scale * low.z, scale * low.w),
                pack<Element>(scale * high.x, scale * high.y), pack<Element>(scale * high.z, scale * high.w)};
    }
    *reinterpret_cast<uint4*>(static_cast<std::uint16_t*>(params.dq) + offset + row * stride) = packed;
  }
}

}  // namespace
}  // namespace cuda
}  // namespace fastbert
