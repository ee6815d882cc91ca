// AMX: a product of tiles is an instruction, 16 x 32 by 32 x 16.
#pragma once

#include "tile_product.h"

namespace fastbert {
namespace {

struct AmxTiles {
  static constexpr bool sums_weights = true;

  // Every tile register is 16 rows of 64 bytes, for as long as this lives.
  class Session {
   public:
    Session() {
      struct alignas(64) Configuration {
        std::uint8_t palette, start_row, reserved[14];
        std::uint16_t row_bytes[16];
        std::uint8_t rows[16];
      } configuration{};
      configuration.palette = 1;
      for (int tile = 0; tile < 8; ++tile) {
        configuration.row_bytes[tile] = 64;
        configuration.rows[tile] = kTileHeight;
      }
      // GCC 12 does not know that the instruction reads all of it, and would drop the stores.
      __asm__ volatile("" : : "r"(&configuration) : "memory");
      _tile_loadconfig(&configuration);
    }
    ~Session() { _tile_release(); }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;
  };

  static __m512 above_floor(__m512 x) { return _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }

  // place(i) gives the operands of step i. Each is loaded right before its first product: of the loads one a product
  // hides behind it, two do not.
  template <class Place>
  static inline __attribute__((always_inline)) void multiply(const TileProduct& product, int depth,
                                                             const Place& place) {
    const bool high = product.two_high, wide = product.two_wide, both = high && wide;
    const std::ptrdiff_t pitch = product.pitch * 4;
    float *upper = product.out, *lower = upper + kTileHeight * product.pitch;
    // GCC 12 does not know what the instructions below read and write.
    __asm__ volatile("" : : : "memory");
    if (product.add) {
      _tile_loadd(0, upper, pitch);
      if (high) _tile_loadd(1, lower, pitch);
      if (wide) _tile_loadd(2, upper + product.next, pitch);
      if (both) _tile_loadd(3, lower + product.next, pitch);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int i = 0; i < depth; ++i) {
      const TileOperands operands = place(i);
      const auto* left = static_cast<const std::uint8_t*>(operands.left);
      _tile_loadd(4, left, 64);
      _tile_loadd(6, operands.right, 64);
      _tile_dpbf16ps(0, 4, 6);
      if (high) _tile_loadd(5, left + kTileBytes, 64);
      if (high) _tile_dpbf16ps(1, 5, 6);
      if (wide) _tile_loadd(7, operands.right + product.right_next, 64);
      if (wide) _tile_dpbf16ps(2, 4, 7);
      if (both) _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, upper, pitch);
    if (high) _tile_stored(1, lower, pitch);
    if (wide) _tile_stored(2, upper + product.next, pitch);
    if (both) _tile_stored(3, lower + product.next, pitch);
    __asm__ volatile("" : : : "memory");
  }
};

}  // namespace
}  // namespace fastbert
