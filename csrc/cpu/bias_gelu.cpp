#include "bias_gelu.h"

#include "column_sums.h"
#include "isa/elementwise.h"
#include "parallel_rows.h"
#include "threads.h"

namespace fastbert {

void bias_gelu_forward(const BiasGeluForwardParams& params, int num_threads) {
  const ElementwiseKernels& kernels = elementwise_kernels();
  parallel_rows(params.rows, params.columns * 8, num_threads,
                [&](std::int64_t begin, std::int64_t end) { kernels.bias_gelu_forward(params, begin, end); });
}

void bias_gelu_backward(const BiasGeluBackwardParams& params, int num_threads) {
  const ElementwiseKernels& kernels = elementwise_kernels();
  const RowChunks chunks(params.rows);
  ColumnSums sums(chunks, params.columns);
  const int threads = region_threads(num_threads, chunks.count, chunks.size * params.columns * 8);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (std::int64_t chunk = 0; chunk < chunks.count; ++chunk) {
    kernels.bias_gelu_backward(params, chunks.begin(chunk), chunks.end(chunk), sums.of(chunk));
  }
  sums.add_up(0, params.columns, params.dbias, num_threads);
}

}  // namespace fastbert
