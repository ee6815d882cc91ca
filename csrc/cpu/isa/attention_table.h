// The table of one way to compute the products, and the stream of random bytes that goes with it.
#pragma once

#include "attention_backward.h"
#include "attention_forward.h"

namespace fastbert {
namespace {

template <class Products, const PhiloxStreamKernels& (*philox)()>
constexpr AttentionKernels attention_table() {
  return {
      Products::group_rows,
      Forward<Products>::scratch_bytes,
      [](const ForwardPiece& piece, void* scratch) { Forward<Products>::run(piece, scratch, philox()); },
      Backward<Products>::chunk,
      Backward<Products>::scratch_bytes,
      [](const BackwardPiece& piece, void* scratch) { Backward<Products>::run(piece, scratch, philox()); },
  };
}

}  // namespace
}  // namespace fastbert
