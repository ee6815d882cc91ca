// AVX512-BF16: a vector of B, multiplied by a pair of A, adds to a vector of sums.
//
// 8 rows by 2 vectors of sums stay in registers while the depth passes: 10 loads for 16 products, which run at the
// speed of the products alone (552 to 562 of 558 GFLOP/s on one core of Zen 5; 12 rows 544, 4 by 4 the same as 8 by 2).
#pragma once

#include "tile_product.h"

namespace fastbert {
namespace {

struct DotTiles {
  static constexpr bool sums_weights = false;
  struct Session {};  // nothing to set up

  // On Zen vreduceps takes twice as long as these two together.
  static __m512 above_floor(__m512 x) { return x - _mm512_roundscale_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }

  template <class Place>
  static inline __attribute__((always_inline)) void multiply(const TileProduct& product, int depth,
                                                             const Place& place) {
    const int rows = product.two_high ? 2 * kTileHeight : kTileHeight;
    for (int row = 0; row < rows; row += kRows) {
      if (product.two_wide) {
        multiply_rows<2>(product, row, depth, place);
      } else {
        multiply_rows<1>(product, row, depth, place);
      }
    }
  }

 private:
  static constexpr int kRows = 8;

  template <int Vectors, class Place>
  static inline __attribute__((always_inline)) void multiply_rows(const TileProduct& product, int row, int depth,
                                                                  const Place& place) {
    float* out = product.out + row * product.pitch;
    __m512 sums[kRows][Vectors];
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < Vectors; ++j) {
        sums[i][j] = product.add ? _mm512_loadu_ps(out + i * product.pitch + j * product.next) : _mm512_setzero_ps();
      }
    }
    for (int step = 0; step < depth; ++step) {
      const TileOperands operands = place(step);
      const auto* left = static_cast<const std::uint8_t*>(operands.left) + row * 64;
      for (int pair = 0; pair < kTileDepth / 2; ++pair) {
        __m512i right[Vectors];
        for (int j = 0; j < Vectors; ++j) {
          right[j] = _mm512_loadu_si512(operands.right + j * product.right_next + pair * 64);
        }
        for (int i = 0; i < kRows; ++i) {
          std::int32_t numbers;
          std::memcpy(&numbers, left + i * 64 + pair * 4, 4);
          const auto both = (__m512bh)_mm512_set1_epi32(numbers);
          for (int j = 0; j < Vectors; ++j) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], both, (__m512bh)right[j]);
        }
      }
    }
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < Vectors; ++j) _mm512_storeu_ps(out + i * product.pitch + j * product.next, sums[i][j]);
    }
  }
};

}  // namespace
}  // namespace fastbert
