#if defined(__x86_64__) && !defined(FASTBERT_NO_AMX)

#include "attention_kernels.h"
#include "products_amx.h"
//
#include "attention_backward.h"
#include "attention_forward_amx.h"

namespace fastbert {

const AttentionKernels& attention_kernels_amx() {
  static constexpr AttentionKernels kernels{
      AmxForward::group_rows,
      AmxForward::most_rows,
      AmxForward::scratch_bytes,
      [](const ForwardPiece& piece, void* scratch) { AmxForward::run(piece, scratch, philox_stream_avx512()); },
      AmxProducts::group_rows,
      Backward<AmxProducts>::chunk,
      Backward<AmxProducts>::scratch_bytes,
      [](const BackwardPiece& piece, void* scratch) {
        Backward<AmxProducts>::run(piece, scratch, philox_stream_avx512());
      },
  };
  return kernels;
}

}  // namespace fastbert

#endif
