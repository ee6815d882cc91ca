#include "philox_bytes.h"

#include <algorithm>
#include <cstring>

#include "isa.h"
#include "isa/philox_stream.h"
#include "threads.h"

namespace fastbert {
namespace {

const PhiloxStreamKernels& kernels_for(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::avx512) return philox_stream_avx512();
  if (isa >= Isa::avx2) return philox_stream_avx2();
#else
  (void)isa;
#endif
  return philox_stream_generic();
}

// The 16 rows (fewer at the end) of one query tile.
void fill_query_tile(const PhiloxStreamKernels& kernels, const PhiloxStream& stream, std::uint8_t* out,
                     std::int64_t rows, std::int64_t seq_k) {
  const std::int64_t whole_tiles = rows == kTileRows ? seq_k / kTileColumns : 0;
  kernels.tiles(stream, 0, whole_tiles, out, seq_k);
  for (std::int64_t column = whole_tiles * kTileColumns; column < seq_k; column += kTileColumns) {
    alignas(64) std::uint8_t tile[kTileRows * kTileColumns];
    kernels.tiles(stream, static_cast<std::uint32_t>(column / kTileColumns), 1, tile, kTileColumns);
    const auto width = static_cast<std::size_t>(std::min<std::int64_t>(kTileColumns, seq_k - column));
    for (std::int64_t row = 0; row < rows; ++row) {
      std::memcpy(out + row * seq_k + column, tile + row * kTileColumns, width);
    }
  }
}

}  // namespace

void philox_attention_bytes(std::uint8_t* out, std::int64_t batch, std::int64_t heads, std::int64_t seq_q,
                            std::int64_t seq_k, PhiloxPart part, std::uint64_t seed, std::int64_t offset,
                            int num_threads) {
  const PhiloxStreamKernels& kernels = kernels_for(active_isa());
  const PhiloxKey key = philox_key(seed);
  const std::int64_t query_tiles = (seq_q + kTileRows - 1) / kTileRows;
  const std::int64_t items = batch * heads * query_tiles;
  if (items == 0 || seq_k == 0) return;
  const int threads = region_threads(num_threads, items, std::min<std::int64_t>(seq_q, kTileRows) * seq_k);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (std::int64_t item = 0; item < items; ++item) {
    const std::int64_t head = item / query_tiles, query_tile = item % query_tiles;
    const std::int64_t sequence = part.first_sequence + head / heads;
    const std::int64_t head_index = sequence * part.total_heads + part.first_head + head % heads;
    const PhiloxStream stream{key, static_cast<std::uint32_t>(query_tile), static_cast<std::uint32_t>(head_index),
                              static_cast<std::uint32_t>(offset)};
    const std::int64_t row = query_tile * kTileRows;
    fill_query_tile(kernels, stream, out + (head * seq_q + row) * seq_k, std::min<std::int64_t>(kTileRows, seq_q - row),
                    seq_k);
  }
}

void philox_elementwise_bytes(std::uint8_t* out, std::int64_t rows, std::int64_t columns, std::uint64_t seed,
                              std::int64_t offset, std::uint32_t site, int num_threads) {
  const PhiloxStreamKernels& kernels = kernels_for(active_isa());
  const PhiloxKey key = philox_key(seed);
  if (rows == 0 || columns == 0) return;
  const std::int64_t whole_blocks = columns / kBlockBytes, rest = columns % kBlockBytes;
  const int threads = region_threads(num_threads, rows, columns);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (std::int64_t row = 0; row < rows; ++row) {
    const PhiloxStream stream{key, static_cast<std::uint32_t>(row), 0x80000000u | site,
                              static_cast<std::uint32_t>(offset)};
    std::uint8_t* destination = out + row * columns;
    kernels.blocks(stream, 0, whole_blocks, destination);
    if (rest > 0) {
      const PhiloxBlock last = philox4x32(
          {{static_cast<std::uint32_t>(whole_blocks), stream.counter1, stream.counter2, stream.counter3}}, key);
      for (std::int64_t byte = 0; byte < rest; ++byte) {
        destination[whole_blocks * kBlockBytes + byte] =
            static_cast<std::uint8_t>(last.word[byte / 4] >> (8 * (byte % 4)));
      }
    }
  }
}

}  // namespace fastbert
