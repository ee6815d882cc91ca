// The kernels before and after the backward, of one type.
#include "../registry.h"
#include "attention_backward_rows.cuh"

#define FASTBERT_JOIN(what, element) fastbert_attention_backward_##what##_##element
#define FASTBERT_NAME(what, element) FASTBERT_JOIN(what, element)

namespace fastbert {
namespace cuda {

#define FASTBERT_KERNEL(name, rows)                                  \
  extern "C" __global__ void __launch_bounds__(kBackwardRowsThreads) \
      name(const __grid_constant__ BackwardKernelParams params) {    \
    rows<FASTBERT_ELEMENT>(params);                                  \
  }                                                                  \
  FASTBERT_REGISTER(name)

FASTBERT_KERNEL(FASTBERT_NAME(prepare, FASTBERT_ELEMENT_NAME), prepare_rows);
FASTBERT_KERNEL(FASTBERT_NAME(finish, FASTBERT_ELEMENT_NAME), finish_rows);

}  // namespace cuda
}  // namespace fastbert
