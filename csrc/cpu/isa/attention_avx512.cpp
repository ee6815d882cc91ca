#if defined(__x86_64__)

#include "attention_kernels.h"
#include "products_float.h"
#include "vector_avx512.h"
//
#include "attention_table.h"

namespace fastbert {

const AttentionKernels& attention_kernels_avx512() {
  static constexpr AttentionKernels kernels = attention_table<FloatProducts<Vector>, philox_stream_avx512>();
  return kernels;
}

}  // namespace fastbert

#endif
