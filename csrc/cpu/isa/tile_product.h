// A product of bfloat16 tiles, and what those who compute it have in common.
//
//   C (+)= sum over i of A_i B_i          C is one or two tiles by one or two; a step of depth is a tile of 32 numbers
//
// Who multiplies (tiles_amx.h, tiles_avx512_bf16.h) is a parameter of the algorithms (attention_forward_bf16.h,
// products_bf16.h). It offers
//   Session             what must live as long as products are computed
//   multiply            the product above
//   above_floor         x - floor(x) for finite x
//   sums_weights        whether the sums of rows of weights come cheapest as a product with ones
#pragma once

#include "operands_bf16.h"

namespace fastbert {
namespace {

// C: tiles of 16 rows, the second one below the first, by tiles of 16 columns, the second one `next` floats on.
struct TileProduct {
  bool two_high, two_wide;
  bool add;  // to what is there
  float* out;
  std::ptrdiff_t pitch, next;  // floats
  std::ptrdiff_t right_next;   // bytes from B's first tile to its second; A's second one follows its first
};

// Of one step of the depth.
struct TileOperands {
  const void* left;
  const std::uint8_t* right;
};

}  // namespace
}  // namespace fastbert
