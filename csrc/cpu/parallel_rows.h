// Rows that have nothing to do with each other, shared out among threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "threads.h"

namespace fastbert {

// run(begin, end) for ranges that together are all rows; a row is about `bytes` bytes of work.
template <class Run>
void parallel_rows(std::int64_t rows, std::int64_t bytes, int num_threads, const Run& run) {
  const int threads = region_threads(num_threads, rows, bytes);
  const std::int64_t each = (rows + threads - 1) / threads;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int thread = 0; thread < threads; ++thread) {
    const std::int64_t begin = std::min(rows, thread * each);
    run(begin, std::min(rows, begin + each));
  }
}

}  // namespace fastbert
