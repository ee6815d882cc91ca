// Element-wise dropout, alone and together with the residual sum that follows it.
#pragma once

#include <cstdint>

#include "../common/dtype.h"
#include "dropout_params.h"

namespace fastbert {

// out = residual + dropout(x), all (rows, columns), contiguous and of one type; without a residual dropout(x).
// Survivors are multiplied by 256 / (256 - threshold); the bytes are those of philox_elementwise_bytes. Arithmetic is
// in float32.
struct DropoutAddParams {
  DType dtype;
  std::int64_t rows, columns;
  const void *x, *residual;  // residual may be null
  void* out;
  DropoutParams dropout;
};

void dropout_add(const DropoutAddParams& params, int num_threads);

}  // namespace fastbert
