// Operands of products of bfloat16 with float32 sums: tiles, as AMX and AVX512-BF16 read them.
//
// Of A a tile is 16 rows of 32 numbers, of B 16 rows of 64 bytes, each with a pair of numbers for each of 16 columns:
// those of two steps of the depth. Which two does not matter, as long as A has them next to each other too.
#pragma once

#include "vector_avx512.h"  // with it, immintrin.h
//
#include <cstddef>
#include <cstdint>

#include "pack.h"

namespace fastbert {
namespace {

constexpr int kTileHeight = 16, kTileDepth = 32, kTileBytes = 1024;

// Vectors that round to bfloat16 with the processor's own instruction, which takes denormals for zeros.
struct Bf16Vector : Vector {
  static void store_bfloat16(std::uint16_t* p, Float x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(x));
  }
};

// 64 bytes of a row of bfloat16 from `column` on; what lies beyond the row, and all of a dead row, is zero.
template <class V>
inline typename V::Float load_words(const Rows& rows, std::int64_t row, int column) {
  if (!rows.alive(row) || column >= rows.columns) return V::zero();
  const auto* source = static_cast<const std::uint16_t*>(rows.data) + row * rows.stride + column;
  if (rows.columns - column >= kTileDepth) return V::load(reinterpret_cast<const float*>(source));
  alignas(64) std::uint16_t buffer[kTileDepth] = {};
  std::memcpy(buffer, source, static_cast<std::size_t>(rows.columns - column) * 2);
  return V::load(reinterpret_cast<const float*>(buffer));
}

// 64 bytes of each of Count rows, of which the first `count` may be alive; the rest are zero.
template <class V, int Count>
inline void load_block(const Rows& rows, std::int64_t first, int count, int column, __m512i (&words)[Count]) {
  if (count == Count && rows.columns - column >= kTileDepth && rows.all_alive(first, Count)) {
    const auto* source = static_cast<const std::uint16_t*>(rows.data) + first * rows.stride + column;
    for (int row = 0; row < Count; ++row) words[row] = _mm512_loadu_si512(source + row * rows.stride);
    return;
  }
  for (int row = 0; row < Count; ++row) {
    words[row] = row < count ? _mm512_castps_si512(load_words<V>(rows, first + row, column)) : _mm512_setzero_si512();
  }
}

// A operand: `count` rows from `first` on, filled up with zeros to two tiles: out[step][row][32].
template <class V>
void pack_left(const Rows& rows, std::int64_t first, int count, int steps, std::uint16_t* out) {
  for (int row = 0; row < 2 * kTileHeight; row += kTileHeight) {
    for (int step = 0; step < steps; ++step) {
      __m512i words[kTileHeight];
      load_block<V>(rows, first + row, static_cast<int>(clamp(count - row, 0, kTileHeight)), step * kTileDepth, words);
      for (int lane = 0; lane < kTileHeight; ++lane) {
        _mm512_storeu_si512(out + ((2 * step * kTileHeight) + row + lane) * kTileDepth, words[lane]);
      }
    }
  }
}

// B operand whose rows are rows of the tensor (dO in P^T dO), of depth 32: row r and row r + 16 make a row of pairs.
// One tile for each 16 columns.
template <class V>
void pack_right(const Rows& rows, std::int64_t first, int count, int column_tiles, std::uint8_t* out) {
  alignas(64) std::uint16_t order[2][32];  // of two vectors side by side: the lower or upper columns of each in turn
  for (int lane = 0; lane < 32; ++lane) {
    order[0][lane] = static_cast<std::uint16_t>(lane / 2 + lane % 2 * 32);
    order[1][lane] = static_cast<std::uint16_t>(16 + lane / 2 + lane % 2 * 32);
  }
  for (int tile = 0; tile < column_tiles; tile += 2) {
    __m512i words[kTileDepth];
    load_block<V>(rows, first, count, tile * 16, words);
    for (int half = 0; half < 2 && tile + half < column_tiles; ++half) {
      const __m512i interleaved = _mm512_load_si512(order[half]);
      for (int row = 0; row < 16; ++row) {
        _mm512_storeu_si512(out + (tile + half) * kTileBytes + row * 64,
                            _mm512_permutex2var_epi16(words[row], interleaved, words[row + 16]));
      }
    }
  }
}

// The dword of pair p and column c of 32 rows to 32 vectors of pairs, one a column: out[column][pitch], from row 0 of
// `words` on. `words` holds 32 columns of 32 rows and is used up.
template <class V>
inline void store_columns(__m512i (&words)[32], std::uint16_t* out, std::ptrdiff_t pitch, int columns) {
  typename V::Float low[16], high[16];
  for (int pair = 0; pair < 16; ++pair) {
    low[pair] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(words[2 * pair], words[2 * pair + 1]));
    high[pair] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(words[2 * pair], words[2 * pair + 1]));
  }
  V::transpose(low);
  V::transpose(high);
  for (int lane = 0; lane < 16; ++lane) {  // unpacking works on pieces of 8 columns, and halves them
    const int column = lane / 4 * 8 + lane % 4;
    if (column < columns) V::store(reinterpret_cast<float*>(out + column * pitch), low[lane]);
    if (column + 4 < columns) V::store(reinterpret_cast<float*>(out + (column + 4) * pitch), high[lane]);
  }
}

// A operand that is the transpose of the rows (V^T in V^T P^T), its depth `count` rows from `first` on, filled up with
// zeros to `depth`: out[column][depth], whole tiles of columns.
template <class V>
void pack_left_transposed(const Rows& rows, std::int64_t first, int count, int column_tiles, std::uint16_t* out,
                          int depth) {
  for (int step = 0; step < depth / kTileDepth; ++step) {
    const std::int64_t row = first + step * kTileDepth;
    const int here = static_cast<int>(clamp(count - step * kTileDepth, 0, kTileDepth));
    for (int column = 0; column < column_tiles * 16; column += kTileDepth) {
      __m512i words[kTileDepth];
      load_block<V>(rows, row, here, column, words);
      store_columns<V>(words, out + column * depth + step * kTileDepth, depth, column_tiles * 16 - column);
    }
  }
}

}  // namespace
}  // namespace fastbert
