// The stream straight from its definition: for processors without a file of their own, and to compare the others with.
#include "philox_stream.h"

namespace fastbert {
namespace {

PhiloxBlock block_at(const PhiloxStream& stream, std::uint32_t counter0) {
  return philox4x32({{counter0, stream.counter1, stream.counter2, stream.counter3}}, stream.key);
}

void tiles(const PhiloxStream& stream, std::uint32_t first, std::int64_t count, std::uint8_t* out,
           std::ptrdiff_t row_stride) {
  for (std::int64_t tile = 0; tile < count; ++tile, out += kTileColumns) {
    const std::uint32_t counter0 = (first + static_cast<std::uint32_t>(tile)) * kTileColumns;
    for (std::uint32_t lane = 0; lane < 32; ++lane) {
      const PhiloxBlock block = block_at(stream, counter0 + lane);
      std::uint8_t* upper = out + lane / 4 * row_stride + lane % 4 * 2;
      std::uint8_t* lower = upper + 8 * row_stride;
      for (int word = 0; word < 4; ++word) {
        upper[8 * word] = static_cast<std::uint8_t>(block.word[word]);
        upper[8 * word + 1] = static_cast<std::uint8_t>(block.word[word] >> 8);
        lower[8 * word] = static_cast<std::uint8_t>(block.word[word] >> 16);
        lower[8 * word + 1] = static_cast<std::uint8_t>(block.word[word] >> 24);
      }
    }
  }
}

void blocks(const PhiloxStream& stream, std::uint32_t first, std::int64_t count, std::uint8_t* out) {
  for (std::int64_t index = 0; index < count; ++index, out += kBlockBytes) {
    const PhiloxBlock block = block_at(stream, first + static_cast<std::uint32_t>(index));
    for (int byte = 0; byte < kBlockBytes; ++byte) {
      out[byte] = static_cast<std::uint8_t>(block.word[byte / 4] >> (8 * (byte % 4)));
    }
  }
}

}  // namespace

const PhiloxStreamKernels& philox_stream_generic() {
  static constexpr PhiloxStreamKernels kernels{tiles, blocks};
  return kernels;
}

}  // namespace fastbert
