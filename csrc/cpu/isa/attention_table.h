// The table of one way to compute the products, and the stream of random bytes that goes with it.
#pragma once

#include "attention_backward.h"
#include "attention_forward.h"

namespace fastbert {
namespace {

constexpr std::int64_t kFloatRows = 192;  // 768 gained nothing: float32 is packed fast beside its products

template <class Products, const PhiloxStreamKernels& (*philox)()>
constexpr AttentionKernels attention_table() {
  return {
      Products::group_rows,
      kFloatRows,
      Forward<Products>::scratch_bytes,
      [](const ForwardPiece& piece, void* scratch) { Forward<Products>::run(piece, scratch, philox()); },
      Products::group_rows,
      Backward<Products>::chunk,
      Backward<Products>::scratch_bytes,
      [](const BackwardPiece& piece, void* scratch) { Backward<Products>::run(piece, scratch, philox()); },
  };
}

}  // namespace
}  // namespace fastbert
