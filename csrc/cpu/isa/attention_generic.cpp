// Attention for processors without a file of their own.
#include "attention_kernels.h"
#include "products_float.h"
#include "vector_portable.h"
//
#include "attention_table.h"

namespace fastbert {

const AttentionKernels& attention_kernels_generic() {
  static constexpr AttentionKernels kernels = attention_table<FloatProducts<Vector>, philox_stream_generic>();
  return kernels;
}

}  // namespace fastbert
