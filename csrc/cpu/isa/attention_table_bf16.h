// The table of attention in bfloat16 on tiles, by who multiplies them.
#pragma once

#include "attention_kernels.h"
#include "products_bf16.h"
//
#include "attention_backward.h"
#include "attention_forward_bf16.h"

namespace fastbert {
namespace {

template <class Tiles>
constexpr AttentionKernels attention_table_bf16() {
  using Forward = Bf16Forward<Tiles>;
  using Backwards = Backward<Bf16Products<Tiles>>;
  return {
      Forward::group_rows,
      Forward::most_rows,
      Forward::scratch_bytes,
      [](const ForwardPiece& piece, void* scratch) { Forward::run(piece, scratch, philox_stream_avx512()); },
      Bf16Products<Tiles>::group_rows,
      Backwards::chunk,
      Backwards::scratch_bytes,
      [](const BackwardPiece& piece, void* scratch) { Backwards::run(piece, scratch, philox_stream_avx512()); },
  };
}

}  // namespace
}  // namespace fastbert
