// Which scores of a tile may be seen: the band of a causal mask or window, the end of the keys, and padding.
//
// Masked scores are deselected: they become -inf whatever they were.
#pragma once

#include <cmath>
#include <cstdint>

#include "accumulator.cuh"
#include "sequence.cuh"

namespace fastbert {
namespace cuda {
namespace {

// The padding mask of one sequence; null = every key is one.
struct LivingKeys {
  const std::uint8_t* bytes;

  __device__ __forceinline__ bool operator()(int key) const { return bytes == nullptr || bytes[key] != 0; }
};

__device__ __forceinline__ LivingKeys living_keys(const AttentionParams& params, const Sequence& sequence) {
  if (params.key_padding_mask == nullptr) return {nullptr};
  return {params.key_padding_mask + sequence.index * params.seq_k};
}

// Bits [begin, end) of a word; both may lie outside.
__device__ __forceinline__ std::uint32_t bits_between(int begin, int end) {
  constexpr std::uint32_t kAll = 0xFFFFFFFFu;
  const std::uint32_t from_begin = __funnelshift_lc(0u, kAll, max(begin, 0));  // kAll << begin, and 0 from 32 on
  const std::uint32_t from_end = __funnelshift_lc(0u, kAll, max(end, 0));
  return from_begin & ~from_end;
}

// Bit j of word w: whether somebody may see key first + 32 w + j of a tile. The same in every lane of the warp.
template <int Keys>
struct LivingBits {
  static constexpr int kWords = Keys / 32;
  std::uint32_t word[kWords];

  // Of key first + row + down; row + down % 32 is less than 32, and down a constant, or the words would need memory.
  __device__ __forceinline__ bool operator()(int row, int down) const {
    return word[down / 32] >> row >> down % 32 & 1;
  }

  __device__ __forceinline__ bool all() const {
    std::uint32_t every = word[0];
#pragma unroll
    for (int w = 1; w < kWords; ++w) every &= word[w];
    return every == 0xFFFFFFFFu;
  }
};

// The living bits of tile after tile, for a warp: of keys that are in `seen` and no padding. Bytes of the padding mask
// are asked for by ask() and met by bits(), which can lie as far apart as a global read takes; without a mask nothing
// is read.
template <int Keys>
class LivingTiles {
 public:
  __device__ __forceinline__ LivingTiles(const LivingKeys& living, Range seen) : living(living), seen(seen) {}

  // Keys first to first + Keys - 1.
  __device__ __forceinline__ void ask(int first) {
    first_key = first;
    if (living.bytes == nullptr) return;
#pragma unroll
    for (int w = 0; w < LivingBits<Keys>::kWords; ++w) {
      const int key = first + 32 * w + static_cast<int>(threadIdx.x) % 32;
      byte[w] = seen.begin <= key && key < seen.end ? __ldg(living.bytes + key) : 0;
    }
  }

  __device__ __forceinline__ LivingBits<Keys> bits() const {
    LivingBits<Keys> result;
#pragma unroll
    for (int w = 0; w < LivingBits<Keys>::kWords; ++w) {
      const int first = first_key + 32 * w;
      result.word[w] = living.bytes == nullptr ? bits_between(seen.begin - first, seen.end - first)
                                               : __ballot_sync(0xFFFFFFFFu, byte[w] != 0);
    }
    return result;
  }

 private:
  LivingKeys living;
  Range seen;
  int first_key;
  std::uint8_t byte[LivingBits<Keys>::kWords];
};

// Scores that their row does not see become -inf. Row i of the accumulator sees the keys of `living` from begin + i to
// past + i - 1, counted from its column 0.
template <int M, int N>
__device__ __forceinline__ void hide(Accumulator<M, N>& scores, const LivingBits<8 * N>& living, int begin, int past) {
  const int column = fragment_column(0, 0), row = fragment_row(0, 0);
  begin += row, past += row;
#pragma unroll
  for (int m = 0; m < M; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int down = 16 * m + 8 * half;
#pragma unroll
      for (int w = 0; w < N / 4; ++w) {
        const std::uint32_t seen =
            (bits_between(begin + down - 32 * w, past + down - 32 * w) & living.word[w]) >> column;
#pragma unroll
        for (int n = 0; n < 4; ++n) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            float& score = scores.c[m][4 * w + n][2 * half + i];
            if ((seen >> (8 * n + i) & 1) == 0) score = -INFINITY;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace cuda
}  // namespace fastbert
