// The kernels for a type, on the instruction set in use.
#pragma once

#include "isa.h"
#include "isa/attention_kernels.h"

namespace fastbert {

inline const AttentionKernels& attention_kernels(DType dtype) {
#if defined(__x86_64__)
  const Isa isa = active_isa();
#if !defined(FASTBERT_NO_AMX)
  if (isa >= Isa::amx && dtype == DType::bfloat16) return attention_kernels_amx();
#endif
#if !defined(FASTBERT_NO_AVX512_BF16)
  if (isa >= Isa::avx512_bf16 && dtype == DType::bfloat16) return attention_kernels_avx512_bf16();
#endif
  if (isa >= Isa::avx512) return attention_kernels_avx512();
  if (isa >= Isa::avx2) return attention_kernels_avx2();
#endif
  (void)dtype;
  return attention_kernels_generic();
}

}  // namespace fastbert
