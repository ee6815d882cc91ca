#if defined(__x86_64__) && !defined(FASTBERT_NO_AMX)

#include "attention_kernels.h"
#include "products_amx.h"
//
#include "attention_table.h"

namespace fastbert {

const AttentionKernels& attention_kernels_amx() {
  static constexpr AttentionKernels kernels = attention_table<AmxProducts, philox_stream_avx512>();
  return kernels;
}

}  // namespace fastbert

#endif
