#if defined(__x86_64__)

#include "elementwise_table.h"
#include "pair.h"
#include "vector_avx2.h"

namespace fastbert {

const ElementwiseKernels& elementwise_avx2() { return Elementwise<Pair<Vector>, philox_stream_avx2>::kernels; }

}  // namespace fastbert

#endif
