// AMX-TILE and AMX-BF16: eight tile registers of up to 16 rows of 64 bytes.
//
// What a processor answers with a fault ends the program with a sentence instead.
#pragma once

#include "lanes.h"

namespace fastbert_emulated {

constexpr int kTileCount = 8, kTileMaximumRows = 16, kTileMaximumBytes = 64;  // palette 1

struct TileRegister {
  int rows, colsb;  // colsb: bytes of a row
  alignas(64) std::uint8_t byte[kTileMaximumRows][kTileMaximumBytes];
};

struct TileState {
  int palette;  // 0: not configured
  std::uint8_t config[64];
  TileRegister tile[kTileCount];
};

// With external linkage, unlike everything else: a thread has one set of tiles, whichever file it runs in.
inline thread_local TileState tile_state = {};

namespace {

[[noreturn]] inline void tile_misuse(const char* instruction, const char* what, int tile) {
  std::fprintf(stderr, "emulated intrinsics: %s: %s (tile %d)\n", instruction, what, tile);
  std::abort();
}

inline TileRegister& usable_tile(const char* instruction, int tile) {
  if (tile < 0 || tile >= kTileCount) tile_misuse(instruction, "no such tile: allowed are 0 to 7", tile);
  if (tile_state.palette == 0) tile_misuse(instruction, "no tile configuration is loaded", tile);
  TileRegister& found = tile_state.tile[tile];
  if (found.rows == 0) tile_misuse(instruction, "the loaded configuration gives this tile no rows", tile);
  return found;
}

inline void tile_release() { tile_state = {}; }

// 64 bytes: palette, start row, 14 reserved, colsb of 16 tiles as uint16, rows of 16 tiles as uint8.
inline void tile_loadconfig(const void* config) {
  constexpr const char* name = "_tile_loadconfig";
  std::uint8_t byte[64];
  __builtin_memcpy(byte, config, sizeof byte);
  if (byte[0] > 1) tile_misuse(name, "the palette is neither 0 nor 1", 0);
  tile_release();  // all tiles become zero
  if (byte[0] == 0) return;
  for (int i = 2; i < 16; ++i) {
    if (byte[i] != 0) tile_misuse(name, "reserved bytes 2 to 15 are not zero", 0);
  }
  if (byte[1] != 0) tile_misuse(name, "start_row is not zero: a kernel that continues an interrupted load?", 0);
  for (int tile = 0; tile < 16; ++tile) {
    const int colsb = byte[16 + 2 * tile] | byte[17 + 2 * tile] << 8, rows = byte[48 + tile];
    if (tile >= kTileCount) {
      if (colsb != 0 || rows != 0) tile_misuse(name, "there are eight tiles, the others must have no size", tile);
      continue;
    }
    if (rows > kTileMaximumRows) tile_misuse(name, "more than 16 rows", tile);
    if (colsb > kTileMaximumBytes) tile_misuse(name, "rows of more than 64 bytes", tile);
    if ((rows == 0) != (colsb == 0)) tile_misuse(name, "rows and colsb must both be zero or both not", tile);
    tile_state.tile[tile].rows = rows;
    tile_state.tile[tile].colsb = colsb;
  }
  tile_state.palette = 1;
  __builtin_memcpy(tile_state.config, byte, sizeof byte);
}

inline void tile_storeconfig(void* config) { __builtin_memcpy(config, tile_state.config, sizeof tile_state.config); }

inline void tile_zero(int tile) {
  TileRegister& found = usable_tile("_tile_zero", tile);
  __builtin_memset(found.byte, 0, sizeof found.byte);
}

inline void load_tile(const char* name, int tile, const void* base, std::ptrdiff_t stride) {
  TileRegister& found = usable_tile(name, tile);
  __builtin_memset(found.byte, 0, sizeof found.byte);
  for (int row = 0; row < found.rows; ++row) {
    __builtin_memcpy(found.byte[row], static_cast<const char*>(base) + row * stride,
                     static_cast<std::size_t>(found.colsb));
  }
}
inline void tile_loadd(int tile, const void* base, std::ptrdiff_t stride) {
  load_tile("_tile_loadd", tile, base, stride);
}
inline void tile_stream_loadd(int tile, const void* base, std::ptrdiff_t stride) {
  load_tile("_tile_stream_loadd", tile, base, stride);
}

inline void tile_stored(int tile, void* base, std::ptrdiff_t stride) {
  const TileRegister& found = usable_tile("_tile_stored", tile);
  for (int row = 0; row < found.rows; ++row) {
    __builtin_memcpy(static_cast<char*>(base) + row * stride, found.byte[row], static_cast<std::size_t>(found.colsb));
  }
}

// A denormal is zero, going in and coming out. (A product sum that is rounded up to the smallest normal number from
// less than half a unit below it stays that number here, and becomes 0 on a processor: 1e-38.)
inline float flushed(float x) { return __builtin_fabsf(x) < 0x1p-126f ? __builtin_copysignf(0.0f, x) : x; }
inline float flushed_bfloat16(const std::uint8_t* at) {
  std::uint16_t half;
  __builtin_memcpy(&half, at, sizeof half);
  return flushed(bits_as<float>(static_cast<std::uint32_t>(half) << 16));
}

// destination (m, n) float32 += a (m, 2k) b (k, n, 2), bfloat16: the even products are summed by fused multiply-adds
// from zero, the odd ones apart from them, and the two sums are added first to each other, then to the destination.
inline void tile_dpbf16ps(int destination, int left, int right) {
  constexpr const char* name = "_tile_dpbf16ps";
  TileRegister& c = usable_tile(name, destination);
  const TileRegister& a = usable_tile(name, left);
  const TileRegister& b = usable_tile(name, right);
  if (destination == left || destination == right || left == right) {
    tile_misuse(name, "the three tiles must be different", destination);
  }
  if (a.colsb % 4 != 0 || b.colsb % 4 != 0 || c.colsb % 4 != 0) tile_misuse(name, "colsb not divisible by 4", left);
  if (c.rows != a.rows) tile_misuse(name, "the destination must have the rows of the first operand", destination);
  if (c.colsb != b.colsb) tile_misuse(name, "the destination must have the colsb of the second operand", destination);
  if (a.colsb / 4 != b.rows) tile_misuse(name, "the second operand must have colsb / 4 of the first as rows", right);

  const int pairs = a.colsb / 4, columns = c.colsb / 4;
  float even_b[16][16] = {}, odd_b[16][16] = {};
  for (int k = 0; k < pairs; ++k) {
    for (int n = 0; n < columns; ++n) {
      even_b[k][n] = flushed_bfloat16(&b.byte[k][4 * n]);
      odd_b[k][n] = flushed_bfloat16(&b.byte[k][4 * n + 2]);
    }
  }
  for (int m = 0; m < c.rows; ++m) {
    float even[16] = {}, odd[16] = {}, sum[16];
    for (int k = 0; k < pairs; ++k) {
      const float even_a = flushed_bfloat16(&a.byte[m][4 * k]), odd_a = flushed_bfloat16(&a.byte[m][4 * k + 2]);
      for (int n = 0; n < 16; ++n) {
        even[n] = flushed(__builtin_fmaf(even_a, even_b[k][n], even[n]));
        odd[n] = flushed(__builtin_fmaf(odd_a, odd_b[k][n], odd[n]));
      }
    }
    __builtin_memcpy(sum, c.byte[m], sizeof sum);
    for (int n = 0; n < 16; ++n) sum[n] = flushed(flushed(sum[n]) + flushed(even[n] + odd[n]));
    __builtin_memcpy(c.byte[m], sum, static_cast<std::size_t>(c.colsb));
  }
}

}  // namespace
}  // namespace fastbert_emulated
