// Which attention weights survive: the defined random bytes of a tile, compared with the threshold.
#pragma once

#include <cstdint>

#include "../attention_geometry.h"
#include "philox_stream.h"

namespace fastbert {
namespace {

struct KeptBytes {
  const std::uint8_t* row;
  int threshold;

  template <class V>
  typename V::Mask lanes(int column) const {
    return V::bytes_at_least(row + column, threshold);
  }
};

// The bytes of whole tiles: queries from `query` (a multiple of 16) and keys from `key` (a multiple of 32) on, to
// out[query][stride].
inline void fill_bytes(const PhiloxStreamKernels& philox, const AttentionParams& params, const Sequence& sequence,
                       std::int64_t head, std::int64_t query, int queries, std::int64_t key, int keys,
                       std::uint8_t* out, std::ptrdiff_t stride) {
  PhiloxStream stream{philox_key(params.seed), 0, static_cast<std::uint32_t>(sequence.index * params.heads + head),
                      params.offset};
  for (int row = 0; row < queries; row += kTileRows) {
    stream.counter1 = static_cast<std::uint32_t>((query + row) / kTileRows);
    philox.tiles(stream, static_cast<std::uint32_t>(key / kTileColumns), ceil_divide(keys, kTileColumns),
                 out + row * stride, stride);
  }
}

}  // namespace
}  // namespace fastbert
