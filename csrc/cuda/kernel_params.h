// What attention's CUDA kernels are handed, by value: the plain struct of the call, and what only they need.
//
// Every pointer is into device memory. seed and offset stay 0: kernels read them from `rng`, since the host must not.
#pragma once

#include <cstdint>

#include "../common/attention_params.h"

namespace fastbert {
namespace cuda {

constexpr std::int64_t kMostRows = std::int64_t{1} << 28;  // of a sequence: kernels count rows and keys in 31 bits

// The grid is one row of blocks: tiles of one head, then heads, then sequences. Packed calls have one sequence more
// than the batch: the rows that no sequence owns.
struct BlockGrid {
  std::int64_t blocks;  // fewer than the launch may have: the rest return
  std::int64_t tiles;   // of the longest sequence
};

struct ForwardKernelParams : AttentionForwardParams {
  const std::uint64_t* rng;  // (seed, offset); null without dropout
  BlockGrid grid;            // tiles of queries, query heads
};

struct BackwardKernelParams : AttentionBackwardParams {
  const std::uint64_t* rng;
  BlockGrid grid;  // tiles of keys, key heads
  BlockGrid rows;  // of the kernels before and after: tiles of queries, query heads

  // Workspace, null where every sequence fits in one tile of keys: then dQ is complete in one block.
  float* delta;          // rowsum(dO O) - dlse, as lse
  float* dq_sum;         // dQ before the scale: rows of q, (…, heads, head_dim) contiguous
  std::uint32_t* turns;  // deterministic calls: (heads, turns_of_head), for each tile of queries the turns taken

  // Dense: batch * ceil(seq_q / queries of a tile). Packed: total_q / queries of a tile + batch, so that no two tiles
  // of a head share a counter.
  std::int64_t turns_of_head;
};

}  // namespace cuda
}  // namespace fastbert
