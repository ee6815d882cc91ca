#if defined(__x86_64__)

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own AVX-512 header: "undefined" is meant there
#endif

#include "elementwise_table.h"
#include "pair.h"
#include "vector_avx512.h"

namespace fastbert {

const ElementwiseKernels& elementwise_avx512() { return Elementwise<Pair<Vector>, philox_stream_avx512>::kernels; }

}  // namespace fastbert

#endif
