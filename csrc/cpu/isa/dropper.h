// Element-wise dropout inside a kernel: random bytes drawn a piece of a row at a time, never a whole mask.
#pragma once

#include <cstdint>

#include "../dropout_params.h"
#include "philox_stream.h"
#include "rows.h"

namespace fastbert {
namespace {

constexpr std::int64_t kPieceColumns = 4096;  // bytes on the stack; rows up to so long are drawn once a row

template <class V, bool Drop>
class Dropper;

template <class V>
class Dropper<V, false> {
 public:
  using Float = typename V::Float;
  Dropper(const DropoutParams&, const PhiloxStreamKernels&) {}
  void draw(std::int64_t, std::int64_t, std::int64_t) {}
  Float operator()(Float x, std::int64_t) const { return x; }
};

template <class V>
class Dropper<V, true> {
 public:
  using Float = typename V::Float;

  Dropper(const DropoutParams& params, const PhiloxStreamKernels& philox)
      : params_(params), philox_(philox), scale_(survivor_scale(params.threshold)) {}

  // Makes ready the bytes of `columns` columns from `first` on, a multiple of kPieceColumns.
  void draw(std::int64_t row, std::int64_t first, std::int64_t columns) {
    if (row == row_ && first == first_) return;
    row_ = row;
    first_ = first;
    const PhiloxStream stream{philox_key(params_.seed), static_cast<std::uint32_t>(row), 0x80000000u | params_.site,
                              params_.offset};
    philox_.blocks(stream, static_cast<std::uint32_t>(first / kBlockBytes), (columns + kBlockBytes - 1) / kBlockBytes,
                   bytes_);
  }

  // The vector of columns first + column onwards, or what is left of it.
  Float operator()(Float x, std::int64_t column) const {
    return V::or_zero(V::bytes_at_least(bytes_ + column, params_.threshold), x * V::broadcast(scale_));
  }

 private:
  const DropoutParams& params_;
  const PhiloxStreamKernels& philox_;
  float scale_;
  std::int64_t row_ = -1, first_ = -1;
  alignas(64) std::uint8_t bytes_[kPieceColumns];
};

// body(first, columns) for the pieces of a row.
template <class Body>
inline FASTBERT_INLINE void for_pieces(std::int64_t columns, const Body& body) {
  for (std::int64_t first = 0; first < columns; first += kPieceColumns) {
    body(first, columns - first < kPieceColumns ? columns - first : kPieceColumns);
  }
}

}  // namespace
}  // namespace fastbert
