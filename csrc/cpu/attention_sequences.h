// The sequences of a call, read from the cumulative lengths.
#pragma once

#include <vector>

#include "attention_geometry.h"

namespace fastbert {

// In order. Cumulative lengths are clamped to the buffers and never run backwards, so that wrong ones touch no memory
// that is not there. Throws std::invalid_argument where a packed sequence is longer than the call's bounds.
std::vector<Sequence> sequences_of(const AttentionParams& params);

// The rows of packed queries, or keys, that belong to no sequence: before the first and past the last one.
struct StrayRows {
  Range before, past;
};
StrayRows stray_queries(const AttentionParams& params, const std::vector<Sequence>& sequences);
StrayRows stray_keys(const AttentionParams& params, const std::vector<Sequence>& sequences);

// Zeros in those rows of a contiguous (total, columns) tensor.
void clear_rows(void* data, DType dtype, std::int64_t columns, const StrayRows& rows);

}  // namespace fastbert
