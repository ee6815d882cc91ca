// How a tile of scores, some queries by a block of keys, is cut into strips of rows, and what each strip sees.
#pragma once

#include "../attention_geometry.h"
#include "mask.h"

namespace fastbert {
namespace {

// Consecutive keys packed together.
struct KeyBlock {
  std::int64_t first;
  int count;
  const std::uint8_t* living;  // a byte for each column, whole panels; null = all are keys
};

// A strip's rows, and the columns, whole panels of them, that any of its rows sees.
struct Strip {
  int row, rows;
  int begin, end;
  bool unmasked;  // every row sees every column

  bool empty() const { return begin >= end; }
};

// The RowMask of one query.
inline RowMask row_mask(const Band& band, std::int64_t query, const KeyBlock& block) {
  const Range seen = band.keys(query);
  return {static_cast<int>(clamp(seen.begin - block.first, 0, block.count)),
          static_cast<int>(clamp(seen.end - block.first, 0, block.count)), block.living};
}

// Products: how operands are cut; group_rows, strip_rows and panel (columns) are its constants.
template <class Products>
struct Strips {
  static constexpr int panel = Products::panel;
  static constexpr int most = (Products::group_rows + Products::strip_rows - 1) / Products::strip_rows;

  Strip strip[most];
  int count = 0;
  int first_column = 0, past_column = 0;  // of all strips together

  Strips(const Band& band, Range queries, const KeyBlock& block) {
    const int rows = static_cast<int>(queries.end - queries.begin);
    for (int row = 0; row < rows; row += Products::strip_rows) {
      const int here = static_cast<int>(lesser(Products::strip_rows, rows - row));
      strip[count++] = cut(band, queries.begin, block, row, here);
    }
    for (int s = 0; s < count; ++s) {
      if (strip[s].empty()) continue;
      first_column = past_column == 0 ? strip[s].begin : static_cast<int>(lesser(first_column, strip[s].begin));
      past_column = static_cast<int>(greater(past_column, strip[s].end));
    }
  }

  const Strip* begin() const { return strip; }
  const Strip* end() const { return strip + count; }

 private:
  static Strip cut(const Band& band, std::int64_t first_query, const KeyBlock& block, int row, int rows) {
    const Range queries{first_query + row, first_query + row + rows};
    const Range seen = band.keys(queries.begin, queries.end);
    const std::int64_t begin = clamp(seen.begin - block.first, 0, block.count);
    const std::int64_t end = clamp(seen.end - block.first, 0, block.count);
    Strip strip{row, rows, 0, 0, false};
    if (begin >= end) return strip;
    strip.begin = static_cast<int>(begin) / panel * panel;
    strip.end = static_cast<int>(round_up(end, panel));
    strip.unmasked =
        block.living == nullptr && band.covers(queries, {block.first + strip.begin, block.first + strip.end});
    return strip;
  }
};

}  // namespace
}  // namespace fastbert
