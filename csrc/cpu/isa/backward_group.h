// Some query rows of one head, and what the backward knows of them before it meets a chunk of keys.
#pragma once

#include "../attention_geometry.h"

namespace fastbert {
namespace {

// Entries past the last row are those of a row that sees no key.
template <int Rows>
struct BackwardGroup {
  std::int64_t head;
  Range queries;
  int rows;
  float lse[Rows];                  // +inf where the row sees no key: its weights are 0
  float delta[Rows];                // rowsum(dO O) - dlse, or -dlse where rowsum(P dP) is still to come
  std::uint8_t sums_weights[Rows];  // rowsum(P dP) is to come: all keys that the row sees are in this piece
};

}  // namespace
}  // namespace fastbert
