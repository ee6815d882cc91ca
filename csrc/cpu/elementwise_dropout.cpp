#include "elementwise_dropout.h"

#include "isa/elementwise.h"
#include "parallel_rows.h"

namespace fastbert {

void dropout_add(const DropoutAddParams& params, int num_threads) {
  const ElementwiseKernels& kernels = elementwise_kernels();
  parallel_rows(params.rows, params.columns * 8, num_threads,
                [&](std::int64_t begin, std::int64_t end) { kernels.dropout_add(params, begin, end); });
}

}  // namespace fastbert
