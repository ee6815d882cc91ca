#include "column_sums.h"

#include <algorithm>

#include "threads.h"

namespace fastbert {
namespace {

constexpr std::int64_t kLeastRows = 32;     // a partial sum costs as much traffic as two rows
constexpr std::int64_t kMostChunks = 512;   // enough for any machine's threads
constexpr std::int64_t kColumnBlock = 128;  // columns that one thread adds up at a time

}  // namespace

RowChunks::RowChunks(std::int64_t all_rows)
    : rows(all_rows),
      size(std::max(kLeastRows, (all_rows + kMostChunks - 1) / kMostChunks)),
      count((all_rows + size - 1) / size) {}

ColumnSums::ColumnSums(const RowChunks& chunks, std::int64_t width)
    : count_(chunks.count), width_(width), partial_(new float[static_cast<std::size_t>(chunks.count * width)]) {}

void ColumnSums::add_up(std::int64_t first, std::int64_t columns, float* out, int num_threads) {
  if (count_ == 0) {
    std::fill(out, out + columns, 0.0f);
    return;
  }
  const std::int64_t blocks = (columns + kColumnBlock - 1) / kColumnBlock;
  const int threads = region_threads(num_threads, blocks, count_ * kColumnBlock * 4);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::int64_t begin = block * kColumnBlock, width = std::min(kColumnBlock, columns - begin);
    float* column = partial_.get() + first + begin;
    for (std::int64_t step = 1; step < count_; step *= 2) {
      for (std::int64_t chunk = 0; chunk + step < count_; chunk += 2 * step) {
        float* to = column + chunk * width_;
        const float* from = to + step * width_;
        for (std::int64_t i = 0; i < width; ++i) to[i] += from[i];
      }
    }
    std::copy(column, column + width, out + begin);
  }
}

}  // namespace fastbert
