#if defined(__x86_64__) && !defined(FASTBERT_NO_AVX512_BF16)

#include "tiles_avx512_bf16.h"
//
#include "attention_table_bf16.h"

namespace fastbert {

const AttentionKernels& attention_kernels_avx512_bf16() {
  static constexpr AttentionKernels kernels = attention_table_bf16<DotTiles>();
  return kernels;
}

}  // namespace fastbert

#endif
