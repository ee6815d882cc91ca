// dQ of sequences that more than one piece of the backward adds to: each piece in its turn.
#pragma once

#include <sched.h>

#include "attention_kernels.h"

namespace fastbert {

struct BackwardTurns {
  float* dq;            // contiguous in q's layout
  std::uint32_t* done;  // pieces that have added, for each group of rows of each head
  std::int64_t group_rows;

  // More counters than any two groups of (sequence, head, rows) share.
  __attribute__((always_inline)) static std::int64_t groups_of_head(const AttentionParams& params,
                                                                    std::int64_t group_rows) {
    if (params.cu_seqlens_q == nullptr) return params.batch * ceil_divide(params.seq_q, group_rows);
    return params.total_q / group_rows + params.batch;
  }

  __attribute__((always_inline)) std::uint32_t* counter(const AttentionParams& params, const Sequence& sequence,
                                                        std::int64_t head, std::int64_t query) const {
    const std::int64_t before = params.cu_seqlens_q == nullptr ? sequence.index * ceil_divide(params.seq_q, group_rows)
                                                               : sequence.first_q / group_rows + sequence.index;
    return done + head * groups_of_head(params, group_rows) + before + query / group_rows;
  }
};

namespace {

// Earlier pieces have been begun (for_each_piece), so the wait ends. Builtins, because the members of std::atomic are
// inline functions that the linker would share between instruction sets.
inline void wait_for_turn(const std::uint32_t* done, std::uint32_t turn) {
  for (int spins = 0; __atomic_load_n(done, __ATOMIC_ACQUIRE) != turn;) {
    if (spins < 1000) {
      ++spins;
    } else {
      sched_yield();
    }
  }
}

inline void end_turn(std::uint32_t* done) { __atomic_fetch_add(done, 1u, __ATOMIC_RELEASE); }

}  // namespace
}  // namespace fastbert
