// A run of Philox blocks whose first counter word counts up while the rest stands still: what both byte layouts consist
// of.
//
// In the attention layout a 16 x 32 tile takes the 32 consecutive counters tile * 32 + lane: lane / 4 is a row r of the
// tile, and each of the four words carries two bytes of row r (low half) and two of row r + 8 (high half). In the
// element-wise layout consecutive counters are consecutive groups of 16 columns.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../../common/philox.h"

namespace fastbert {

constexpr int kTileRows = 16, kTileColumns = 32, kBlockBytes = 16;

struct PhiloxStream {
  PhiloxKey key;
  std::uint32_t counter1, counter2, counter3;
};

struct PhiloxStreamKernels {
  // Writes `count` tiles side by side from tile `first` on; rows are `row_stride` bytes apart.
  void (*tiles)(const PhiloxStream& stream, std::uint32_t first, std::int64_t count, std::uint8_t* out,
                std::ptrdiff_t row_stride);
  // Writes the blocks of counters first .. first + count - 1, 16 bytes each, words and bytes in little-endian order.
  void (*blocks)(const PhiloxStream& stream, std::uint32_t first, std::int64_t count, std::uint8_t* out);
};

// The survivors' multiplier: one over the probability that a byte is at least the threshold.
static inline __attribute__((always_inline)) float survivor_scale(int threshold) {
  return 256.0f / static_cast<float>(256 - threshold);
}

const PhiloxStreamKernels& philox_stream_generic();
const PhiloxStreamKernels& philox_stream_avx2();
const PhiloxStreamKernels& philox_stream_avx512();

// The bytes of `count` tiles from `first` on by pairs of columns: out[tile][pair][row][2].
void philox_pairs_avx512(const PhiloxStream& stream, std::uint32_t first, std::int64_t count, std::uint8_t* out);

}  // namespace fastbert
