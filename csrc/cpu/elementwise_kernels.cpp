#include "isa.h"
#include "isa/elementwise.h"

namespace fastbert {

const ElementwiseKernels& elementwise_kernels() {
#if defined(__x86_64__)
  const Isa isa = active_isa();
  if (isa >= Isa::avx512) return elementwise_avx512();
  if (isa >= Isa::avx2) return elementwise_avx2();
#endif
  return elementwise_generic();
}

}  // namespace fastbert
