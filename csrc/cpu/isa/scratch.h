// Buffers one after the other in one piece of memory, each aligned to a cache line. Without memory it only measures.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../attention_geometry.h"

namespace fastbert {
namespace {

class Scratch {
 public:
  explicit Scratch(void* memory) : memory_(static_cast<std::uint8_t*>(memory)) {}

  float* floats(std::int64_t count) { return reinterpret_cast<float*>(bytes(count * 4)); }
  std::uint16_t* halves(std::int64_t count) { return reinterpret_cast<std::uint16_t*>(bytes(count * 2)); }

  std::uint8_t* bytes(std::int64_t count) {
    std::uint8_t* result = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += static_cast<std::size_t>(round_up(count, 64));
    return result;
  }

  std::size_t used() const { return used_; }

 private:
  std::uint8_t* memory_;
  std::size_t used_ = 0;
};

// The distance, in floats, of rows of `width` floats: an odd number of cache lines, so that the rows of one panel
// spread over all sets of the cache (at powers of two they would fight for a few).
inline std::int64_t row_pitch(std::int64_t width) {
  const std::int64_t lines = ceil_divide(width, 16);
  return (lines + (lines + 1) % 2) * 16;
}

// The address of an element of a tensor.
template <class Pointer>
inline Pointer* at(DType dtype, Pointer* data, std::int64_t index) {
  const std::int64_t size = dtype == DType::float32 ? 4 : 2;
  return reinterpret_cast<Pointer*>(reinterpret_cast<std::uintptr_t>(data) + static_cast<std::uintptr_t>(index * size));
}

}  // namespace
}  // namespace fastbert
