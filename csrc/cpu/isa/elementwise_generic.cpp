// What any processor runs.
#include "elementwise_table.h"
#include "pair.h"
#include "vector_portable.h"

namespace fastbert {

const ElementwiseKernels& elementwise_generic() { return Elementwise<Pair<Vector>, philox_stream_generic>::kernels; }

}  // namespace fastbert
