// The kernels of ./elementwise.h, made of the templates for one kind of vector.
#pragma once

#include "bias_gelu_rows.h"
#include "cross_entropy_rows.h"
#include "dropout_rows.h"
#include "elementwise.h"
#include "layer_norm_rows.h"

namespace fastbert {
namespace {

template <DType dtype>
struct Type {
  static constexpr DType value = dtype;
};

// run(Type) for the type of a call.
template <class Run>
inline FASTBERT_INLINE void for_type(DType dtype, const Run& run) {
  switch (dtype) {
    case DType::float32:
      return run(Type<DType::float32>{});
    case DType::bfloat16:
      return run(Type<DType::bfloat16>{});
    case DType::float16:
      return run(Type<DType::float16>{});
  }
}

template <class Vector, const PhiloxStreamKernels& (*philox)()>
struct Elementwise {
  static void dropout_add(const DropoutAddParams& params, std::int64_t begin, std::int64_t end) {
    for_type(params.dtype, [&](auto type) {
      if (params.residual == nullptr) {
        dropout_add_rows<Vector, type.value, false>(params, philox(), begin, end);
      } else {
        dropout_add_rows<Vector, type.value, true>(params, philox(), begin, end);
      }
    });
  }

  static void layer_norm_forward(const LayerNormForwardParams& params, std::int64_t begin, std::int64_t end) {
    for_type(params.dtype, [&](auto type) {
      if (params.dropout.threshold == 0) {
        layer_norm_forward_rows<Vector, type.value, false>(params, philox(), begin, end);
      } else {
        layer_norm_forward_rows<Vector, type.value, true>(params, philox(), begin, end);
      }
    });
  }

  static void layer_norm_backward(const LayerNormBackwardParams& params, std::int64_t begin, std::int64_t end,
                                  float* dweight, float* dbias) {
    for_type(params.dtype, [&](auto type) {
      const bool drop = params.dropout.threshold != 0, has_sum = params.sum != nullptr;
      if (drop && has_sum) {
        layer_norm_backward_rows<Vector, type.value, true, true>(params, philox(), begin, end, dweight, dbias);
      } else if (drop) {
        layer_norm_backward_rows<Vector, type.value, true, false>(params, philox(), begin, end, dweight, dbias);
      } else if (has_sum) {
        layer_norm_backward_rows<Vector, type.value, false, true>(params, philox(), begin, end, dweight, dbias);
      } else {
        layer_norm_backward_rows<Vector, type.value, false, false>(params, philox(), begin, end, dweight, dbias);
      }
    });
  }

  static void bias_gelu_forward(const BiasGeluForwardParams& params, std::int64_t begin, std::int64_t end) {
    for_type(params.dtype, [&](auto type) {
      if (params.tanh) {
        bias_gelu_forward_rows<Vector, type.value, true>(params, begin, end);
      } else {
        bias_gelu_forward_rows<Vector, type.value, false>(params, begin, end);
      }
    });
  }

  static void bias_gelu_backward(const BiasGeluBackwardParams& params, std::int64_t begin, std::int64_t end,
                                 float* dbias) {
    for_type(params.dtype, [&](auto type) {
      if (params.tanh) {
        bias_gelu_backward_rows<Vector, type.value, true>(params, begin, end, dbias);
      } else {
        bias_gelu_backward_rows<Vector, type.value, false>(params, begin, end, dbias);
      }
    });
  }

  static void cross_entropy_forward(const CrossEntropyForwardParams& params, std::int64_t begin, std::int64_t end) {
    for_type(params.dtype, [&](auto type) { cross_entropy_forward_rows<Vector, type.value>(params, begin, end); });
  }

  static void cross_entropy_backward(const CrossEntropyBackwardParams& params, std::int64_t begin, std::int64_t end) {
    for_type(params.dtype, [&](auto type) { cross_entropy_backward_rows<Vector, type.value>(params, begin, end); });
  }

  static constexpr ElementwiseKernels kernels{dropout_add,           layer_norm_forward, layer_norm_backward,
                                              bias_gelu_forward,     bias_gelu_backward, cross_entropy_forward,
                                              cross_entropy_backward};
};

}  // namespace
}  // namespace fastbert
