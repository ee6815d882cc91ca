// Rows of packed tensors that no sequence owns: before the first one and past the last.
#pragma once

#include <cstdint>

#include "sequence.cuh"

namespace fastbert {
namespace cuda {
namespace {

// Calls visit(row) with such rows, each in one warp. The blocks of a head share them: this one is `share` of `shares`.
template <int Threads, class Visit>
__device__ __forceinline__ void for_each_stray_row(const std::int32_t* cu_seqlens, std::int64_t batch,
                                                   std::int64_t total, std::int64_t share, std::int64_t shares,
                                                   const Visit& visit) {
  const std::int64_t before = clamped(cu_seqlens[0], 0, total);
  const std::int64_t after = clamped(cu_seqlens[batch], before, total);
  const std::int64_t rows = before + total - after;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  for (std::int64_t i = share * (Threads / 32) + warp; i < rows; i += shares * (Threads / 32)) {
    visit(i < before ? i : i - before + after);
  }
}

// Zeros in one row of one head of a contiguous (total, heads, head_dim) of 16-bit numbers, by a warp.
__device__ __forceinline__ void clear_row(void* data, std::int64_t row, std::int64_t heads, std::int64_t head_dim,
                                          std::int64_t head) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  uint4* const to = reinterpret_cast<uint4*>(static_cast<std::uint16_t*>(data) + (row * heads + head) * head_dim);
  if (lane < static_cast<int>(head_dim) / kChunk) to[lane] = uint4{0, 0, 0, 0};
}

// Zeros in all such rows of one head.
template <int Threads>
__device__ __forceinline__ void clear_stray_rows(void* data, const std::int32_t* cu_seqlens, std::int64_t batch,
                                                 std::int64_t total, std::int64_t heads, std::int64_t head_dim,
                                                 std::int64_t head, std::int64_t share, std::int64_t shares) {
  for_each_stray_row<Threads>(cu_seqlens, batch, total, share, shares,
                              [&](std::int64_t row) { clear_row(data, row, heads, head_dim, head); });
}

}  // namespace
}  // namespace cuda
}  // namespace fastbert
