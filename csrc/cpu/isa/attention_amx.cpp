#if defined(__x86_64__) && !defined(FASTBERT_NO_AMX)

#include "tiles_amx.h"
//
#include "attention_table_bf16.h"

namespace fastbert {

const AttentionKernels& attention_kernels_amx() {
  static constexpr AttentionKernels kernels = attention_table_bf16<AmxTiles>();
  return kernels;
}

}  // namespace fastbert

#endif
