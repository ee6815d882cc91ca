// Sums over rows that come out the same for any thread count: rows in fixed chunks, chunks added up in a fixed tree.
#pragma once

#include <cstdint>
#include <memory>

namespace fastbert {

// How rows are cut. Nothing but their number decides.
struct RowChunks {
  explicit RowChunks(std::int64_t all_rows);

  std::int64_t begin(std::int64_t chunk) const { return chunk * size; }
  std::int64_t end(std::int64_t chunk) const { return chunk + 1 == count ? rows : (chunk + 1) * size; }

  std::int64_t rows, size, count;
};

// One row of `width` floats a chunk; each chunk's work fills its own.
class ColumnSums {
 public:
  ColumnSums(const RowChunks& chunks, std::int64_t width);

  float* of(std::int64_t chunk) { return partial_.get() + chunk * width_; }
  // Adds the chunks' rows up; columns `first` to `first + columns` go to out. Once for each column.
  void add_up(std::int64_t first, std::int64_t columns, float* out, int num_threads);

 private:
  std::int64_t count_, width_;
  std::unique_ptr<float[]> partial_;
};

}  // namespace fastbert
