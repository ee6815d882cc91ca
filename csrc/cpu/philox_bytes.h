// Dropout's random bytes, written out in the two layouts of the operator contract.
//
// The bytes are a pure function of their arguments: the same on every instruction set and for every thread count.
#pragma once

#include <cstdint>

namespace fastbert {

// Fills the contiguous uint8 array out[batch][heads][seq_q][seq_k] for attention dropout. The byte of query i and key j
// is byte j % 2 + 2 * (i % 16 / 8) of word j % 32 / 8 of Philox4x32-7 at counter
//   (j / 32 * 32 + i % 8 * 4 + j % 8 / 2,  i / 16,  batch_index * heads + head,  offset mod 2^32),
// so one call serves the 16 scores of a 16 x 32 tile that one thread of a tensor core holds. The array may be a part of
// a larger call: its first sequence and first head are `part.first_sequence` and `part.first_head` there, and `heads`
// of the formula is `part.total_heads`.
struct PhiloxPart {
  std::int64_t first_sequence, first_head, total_heads;
};
void philox_attention_bytes(std::uint8_t* out, std::int64_t batch, std::int64_t heads, std::int64_t seq_q,
                            std::int64_t seq_k, PhiloxPart part, std::uint64_t seed, std::int64_t offset,
                            int num_threads);

// Fills the contiguous uint8 array out[rows][columns] for element-wise dropout: byte column % 16 of Philox4x32-7 at
// counter (column / 16, row, 2^31 | site, offset mod 2^32).
void philox_elementwise_bytes(std::uint8_t* out, std::int64_t rows, std::int64_t columns, std::uint64_t seed,
                              std::int64_t offset, std::uint32_t site, int num_threads);

}  // namespace fastbert
