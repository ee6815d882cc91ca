#include "layer_norm.h"

#include "column_sums.h"
#include "isa/elementwise.h"
#include "parallel_rows.h"
#include "threads.h"

namespace fastbert {

void layer_norm_forward(const LayerNormForwardParams& params, int num_threads) {
  const ElementwiseKernels& kernels = elementwise_kernels();
  parallel_rows(params.rows, params.columns * 8, num_threads,
                [&](std::int64_t begin, std::int64_t end) { kernels.layer_norm_forward(params, begin, end); });
}

void layer_norm_backward(const LayerNormBackwardParams& params, int num_threads) {
  const ElementwiseKernels& kernels = elementwise_kernels();
  const RowChunks chunks(params.rows);
  ColumnSums sums(chunks, 2 * params.columns);
  const int threads = region_threads(num_threads, chunks.count, chunks.size * params.columns * 8);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (std::int64_t chunk = 0; chunk < chunks.count; ++chunk) {
    float* dweight = sums.of(chunk);
    kernels.layer_norm_backward(params, chunks.begin(chunk), chunks.end(chunk), dweight, dweight + params.columns);
  }
  sums.add_up(0, params.columns, params.dweight, num_threads);
  sums.add_up(params.columns, params.columns, params.dbias, num_threads);
}

}  // namespace fastbert
