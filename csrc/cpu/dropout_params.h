// Which elements an element-wise dropout keeps, in plain numbers.
#pragma once

#include <cstdint>

namespace fastbert {

struct DropoutParams {
  int threshold;  // 0 = none, else elements survive where their byte is at least this
  std::uint64_t seed;
  std::uint32_t offset, site;
};

}  // namespace fastbert
