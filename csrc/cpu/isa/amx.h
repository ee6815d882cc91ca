// AMX tiles: products of bfloat16 with float32 sums, 16 x 32 by 32 x 16 at a time.
//
// A is read as it lies, 16 rows of 32 numbers. B is packed: a tile of 16 rows of 64 bytes, row r holding, for each of
// its 16 columns, the two numbers of rows 2 r and 2 r + 1. Tiles of one column stand one after the other, step by step.
#pragma once

#include "vector_avx512.h"  // with it, immintrin.h
//
#include <cstddef>
#include <cstdint>

#include "pack.h"

namespace fastbert {
namespace {

constexpr int kAmxRows = 16, kAmxDepth = 32, kAmxTileBytes = 1024;

// Every tile register is 16 rows of 64 bytes, for as long as this lives.
class TileSession {
 public:
  TileSession() {
    struct alignas(64) Configuration {
      std::uint8_t palette, start_row, reserved[14];
      std::uint16_t row_bytes[16];
      std::uint8_t rows[16];
    } configuration{};
    configuration.palette = 1;
    for (int tile = 0; tile < 8; ++tile) {
      configuration.row_bytes[tile] = 64;
      configuration.rows[tile] = kAmxRows;
    }
    // GCC 12 does not know that the instruction reads all of it, and would drop the stores.
    __asm__ volatile("" : : "r"(&configuration) : "memory");
    _tile_loadconfig(&configuration);
  }
  ~TileSession() { _tile_release(); }
  TileSession(const TileSession&) = delete;
  TileSession& operator=(const TileSession&) = delete;
};

struct TileLeft {
  const std::uint16_t* data;
  std::ptrdiff_t pitch;  // in numbers
};

struct TileRight {
  const std::uint8_t* data;
  std::ptrdiff_t column;  // bytes from one column of tiles to the next

  const std::uint8_t* at(int column_tile, int step) const { return data + column_tile * column + step * kAmxTileBytes; }
};

struct TileProduct {
  float* data;
  std::ptrdiff_t pitch;
};

// Rows x Columns tiles of C. Four independent sums where both are 2; two would wait for each other's latency.
template <int Rows, int Columns, bool Accumulate>
inline void multiply_tile_block(const TileLeft& a, const std::uint8_t* b, std::ptrdiff_t b_column, const TileProduct& c,
                                int steps) {
  const auto c_bytes = c.pitch * 4, a_bytes = a.pitch * 2;
  // GCC 12 does not know that tile loads read memory either: what was packed must have been written by here.
  __asm__ volatile("" : : : "memory");
  float *upper = c.data, *lower = c.data + kAmxRows * c.pitch;
  if constexpr (Accumulate) {
    _tile_loadd(0, upper, c_bytes);
    if constexpr (Columns == 2) _tile_loadd(1, upper + 16, c_bytes);
    if constexpr (Rows == 2) _tile_loadd(2, lower, c_bytes);
    if constexpr (Rows == 2 && Columns == 2) _tile_loadd(3, lower + 16, c_bytes);
  } else {
    _tile_zero(0);
    if constexpr (Columns == 2) _tile_zero(1);
    if constexpr (Rows == 2) _tile_zero(2);
    if constexpr (Rows == 2 && Columns == 2) _tile_zero(3);
  }
  for (int step = 0; step < steps; ++step) {
    const std::uint16_t* left = a.data + step * kAmxDepth;
    const std::uint8_t* right = b + step * kAmxTileBytes;
    _tile_loadd(4, left, a_bytes);
    _tile_loadd(6, right, 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (Columns == 2) {
      _tile_loadd(7, right + b_column, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (Rows == 2) {
      _tile_loadd(5, left + kAmxRows * a.pitch, a_bytes);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (Rows == 2 && Columns == 2) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, upper, c_bytes);
  if constexpr (Columns == 2) _tile_stored(1, upper + 16, c_bytes);
  if constexpr (Rows == 2) _tile_stored(2, lower, c_bytes);
  if constexpr (Rows == 2 && Columns == 2) _tile_stored(3, lower + 16, c_bytes);
}

// C (+)= A B for 1 or 2 tiles of rows by any number of tiles of columns.
template <bool Accumulate>
inline void multiply_tiles(int row_tiles, const TileLeft& a, int column_tiles, const TileRight& b, const TileProduct& c,
                           int steps) {
  for (int column = 0; column < column_tiles; column += 2) {
    const std::uint8_t* right = b.at(column, 0);
    const TileProduct product{c.data + column * 16, c.pitch};
    const bool pair = column + 1 < column_tiles;
    if (row_tiles == 2 && pair) {
      multiply_tile_block<2, 2, Accumulate>(a, right, b.column, product, steps);
    } else if (row_tiles == 2) {
      multiply_tile_block<2, 1, Accumulate>(a, right, b.column, product, steps);
    } else if (pair) {
      multiply_tile_block<1, 2, Accumulate>(a, right, b.column, product, steps);
    } else {
      multiply_tile_block<1, 1, Accumulate>(a, right, b.column, product, steps);
    }
  }
}

// 64 bytes of a row of bfloat16 from `column` on; what lies beyond the row, and all of a dead row, is zero.
template <class V>
inline typename V::Float load_words(const Rows& rows, std::int64_t row, int column) {
  if (!rows.alive(row) || column >= rows.columns) return V::zero();
  const auto* source = static_cast<const std::uint16_t*>(rows.data) + row * rows.stride + column;
  if (rows.columns - column >= kAmxDepth) return V::load(reinterpret_cast<const float*>(source));
  alignas(64) std::uint16_t buffer[kAmxDepth] = {};
  std::memcpy(buffer, source, static_cast<std::size_t>(rows.columns - column) * 2);
  return V::load(reinterpret_cast<const float*>(buffer));
}

// A operand: `count` rows from `first` on, to out[row][pitch].
template <class V>
void pack_left(const Rows& rows, std::int64_t first, int count, std::uint16_t* out, std::ptrdiff_t pitch) {
  for (int row = 0; row < count; ++row) {
    if (row + kRowsAhead < count) prefetch_row<DType::bfloat16>(rows, first + row + kRowsAhead);
    for (int column = 0; column < pitch; column += kAmxDepth) {
      V::store(reinterpret_cast<float*>(out + row * pitch + column), load_words<V>(rows, first + row, column));
    }
  }
}

// B operand whose columns are rows of the tensor (K in Q K^T): pairs of numbers are already neighbours, so a tile is
// the transpose of 16 rows of 16 pairs. Tiles [rows / 16][columns / 32]; rows are filled up to a multiple of 32.
template <class V>
void pack_right_transposed(const Rows& rows, std::int64_t first, int count, int steps, std::uint8_t* out) {
  for (int row = 0; row < count; row += kAmxRows) {
    for (int ahead = row + kAmxRows; ahead < lesser(row + 2 * kAmxRows, count); ++ahead) {
      prefetch_row<DType::bfloat16>(rows, first + ahead);
    }
    for (int step = 0; step < steps; ++step) {
      typename V::Float words[16];
      for (int lane = 0; lane < 16; ++lane) {
        words[lane] = row + lane < count ? load_words<V>(rows, first + row + lane, step * kAmxDepth) : V::zero();
      }
      V::transpose(words);
      std::uint8_t* tile = out + (row / kAmxRows * steps + step) * kAmxTileBytes;
      for (int lane = 0; lane < 16; ++lane) V::store(reinterpret_cast<float*>(tile + lane * 64), words[lane]);
    }
  }
  if (count % kAmxDepth != 0 && count % kAmxDepth <= kAmxRows) {
    std::memset(out + (count / kAmxDepth * 2 + 1) * steps * kAmxTileBytes, 0,
                static_cast<std::size_t>(steps) * kAmxTileBytes);
  }
}

// 16 columns of rows `row` and `row + 1`, pair by pair; rows from `count` on are zero.
template <class V>
inline __m512i load_pairs(const Rows& rows, std::int64_t first, int row, int count, int column) {
  const auto half = [&](int r) {
    const std::int64_t index = first + r;
    if (r >= count || !rows.alive(index) || column >= rows.columns) return _mm512_setzero_si512();
    const auto* source = static_cast<const std::uint16_t*>(rows.data) + index * rows.stride + column;
    if (rows.columns - column >= 16) {
      return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
    }
    alignas(32) std::uint16_t buffer[16] = {};
    std::memcpy(buffer, source, static_cast<std::size_t>(rows.columns - column) * 2);
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(buffer)));
  };
  return _mm512_or_si512(half(row), _mm512_slli_epi32(half(row + 1), 16));
}

// B operand whose rows are rows of the tensor (V in P V). Tiles [columns / 16][rows / 32].
template <class V>
void pack_right(const Rows& rows, std::int64_t first, int count, int column_tiles, std::uint8_t* out) {
  const int steps = static_cast<int>(ceil_divide(count, kAmxDepth));
  for (int step = 0; step < steps; ++step) {
    for (int tile = 0; tile < column_tiles; ++tile) {
      std::uint8_t* destination = out + (tile * steps + step) * kAmxTileBytes;
      for (int pair = 0; pair < 16; ++pair) {
        _mm512_storeu_si512(destination + pair * 64,
                            load_pairs<V>(rows, first, step * kAmxDepth + 2 * pair, count, tile * 16));
      }
    }
  }
}

// A operand that is the transpose of the rows (Q^T in Q^T dS), its depth the rows 0 to count - 1 filled up with zeros
// to `depth`: out[column][depth], whole tiles of columns.
template <class V>
void pack_left_transposed(const Rows& rows, int count, int column_tiles, std::uint16_t* out, int depth) {
  for (int step = 0; step < depth / kAmxDepth; ++step) {
    for (int tile = 0; tile < column_tiles; ++tile) {
      typename V::Float pairs[16];
      for (int pair = 0; pair < 16; ++pair) {
        pairs[pair] = _mm512_castsi512_ps(load_pairs<V>(rows, 0, step * kAmxDepth + 2 * pair, count, tile * 16));
      }
      V::transpose(pairs);
      for (int lane = 0; lane < 16; ++lane) {
        V::store(reinterpret_cast<float*>(out + (tile * 16 + lane) * depth + step * kAmxDepth), pairs[lane]);
      }
    }
  }
}

// Two rows of float32 numbers as one row of a B tile: the upper row in the low halves.
inline __m512i interleave_rows(__m512 upper, __m512 lower) {
  const __m512i high =
      _mm512_and_si512(Vector::round_to_bfloat16(lower), _mm512_set1_epi32(static_cast<int>(0xFFFF0000u)));
  return _mm512_or_si512(_mm512_srli_epi32(Vector::round_to_bfloat16(upper), 16), high);
}

}  // namespace
}  // namespace fastbert
