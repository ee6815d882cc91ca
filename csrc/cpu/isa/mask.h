// Which keys a row of scores may see, as lanes of a vector.
#pragma once

#include <cstdint>

namespace fastbert {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();

// Columns count from the start of the block of keys.
struct RowMask {
  int begin, end;              // the band
  const std::uint8_t* living;  // by column: nonzero = a key; null = all are

  template <class V>
  typename V::Mask lanes(int column) const {
    const typename V::Mask seen = V::in_range(column, begin, end);
    return living == nullptr ? seen : V::both(seen, V::nonzero(living + column));
  }
};

}  // namespace
}  // namespace fastbert
