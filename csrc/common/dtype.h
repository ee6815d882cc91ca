// The types that activations come in.
#pragma once

#include <cstdint>

namespace fastbert {

enum class DType : std::int32_t { float32, bfloat16, float16 };

}  // namespace fastbert
