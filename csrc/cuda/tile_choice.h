// How large the tiles are: pure functions of head_dim and of the shared memory of a block, for kernels and plan alike.
//
// Instances exist for head_dim 32, 64, 96, 128 and 256; smaller ones are filled up with zeros in shared memory.
#pragma once

namespace fastbert {
namespace cuda {

// head_dim of the instance that serves a head_dim (a multiple of 8, at most 256).
constexpr int tile_head_dim(int head_dim) {
  return head_dim <= 32 ? 32 : head_dim <= 64 ? 64 : head_dim <= 96 ? 96 : head_dim <= 128 ? 128 : 256;
}

// A block of the forward: `queries` rows of one head, against keys tile by tile. Each warp has queries / warps rows.
struct ForwardTile {
  int queries, keys, warps, stages;  // stages: tiles of K, and of V, that shared memory holds
  int blocks;                        // that are to share a multiprocessor
  bool keeps_queries;                // in registers; else each tile of keys reads them again from shared memory

  constexpr int threads() const { return warps * 32; }
  constexpr int shared_bytes(int head_dim) const { return (queries + 2 * stages * keys) * head_dim * 2; }
};

// 32 rows a warp: every fragment of K and V that is read from shared memory meets two fragments of Q, or reading would
// take as long as multiplying. At head_dim 256 the registers hold results of 16 rows only.
//
// At least two blocks share a multiprocessor, so that one multiplies while the other waits or takes exponentials: 64 KB
// at most of the 164 that sm_80 has, 48 up to head_dim 96 of the 100 that sm_86, 89 and 120 have. The rest follows from
// the registers, of which out takes head_dim and the scores keys of each thread's 255.
constexpr ForwardTile forward_tile(int head_dim) {
  return head_dim <= 32    ? ForwardTile{128, 64, 4, 2, 3, false}
         : head_dim <= 64  ? ForwardTile{128, 64, 4, 2, 2, true}
         : head_dim <= 96  ? ForwardTile{128, 32, 4, 2, 2, true}
         : head_dim <= 128 ? ForwardTile{128, 32, 4, 2, 2, false}
                           : ForwardTile{64, 32, 4, 1, 2, false};
}

// A block of the backward: `keys` keys of one key head, against queries tile by tile. `groups` groups of
// `parts` warps: a group has keys / groups keys (16 or 32), of which each of its warps computes the scores of
// queries / parts queries and keeps head_dim / parts columns of dK and dV. Where there are parts, P and dS
// pass between them through shared memory.
struct BackwardTile {
  int keys, queries, groups, parts, stages;  // stages: tiles of Q and dO in flight
  int blocks;                                // on a multiprocessor at a time, as registers allow

  constexpr int threads() const { return groups * parts * 32; }

  // Two sums for each of those queries whose scores a warp holds at a time, from every group.
  constexpr int sums_bytes() const { return groups * (parts == 1 ? 32 : queries) * 8; }
  constexpr int shared_bytes(int head_dim) const {
    return 4 * (keys + stages * queries) * head_dim + (parts == 1 ? 2 : 4) * keys * queries + sums_bytes();
  }
};

constexpr int kLargeSharedBytes = 163 * 1024;  // of a block on sm_80 and sm_87; sm_90 and sm_100 have more

// 32 keys a group where the registers allow it, for the reason given above for the forward's rows. Two blocks
// of head_dim 64 fill the 164 KB of an sm_80 to the last byte, and the one of head_dim 128 all but 1 KB.
//
// Devices with 99 KB hold one block; there the tensor cores take longer than shared memory, and 8 warps of 16
// keys hide more latency than 4 of 32.
constexpr BackwardTile backward_tile(int head_dim, int shared_bytes) {
  const bool large = shared_bytes >= kLargeSharedBytes;
  if (head_dim <= 32) return {128, 64, 4, 1, 2, 2};
  if (head_dim <= 64) return large ? BackwardTile{128, 64, 4, 1, 2, 2} : BackwardTile{128, 32, 8, 1, 2, 1};
  if (head_dim <= 96) return large ? BackwardTile{128, 64, 4, 2, 2, 1} : BackwardTile{64, 64, 4, 2, 2, 1};
  if (head_dim <= 128) return large ? BackwardTile{128, 64, 4, 2, 2, 1} : BackwardTile{64, 32, 4, 2, 2, 1};
  return large ? BackwardTile{64, 32, 4, 2, 2, 1} : BackwardTile{32, 32, 2, 2, 1, 1};
}

// The tile of an instance, which is named by its head_dim, keys and queries.
constexpr BackwardTile backward_tile_of(int head_dim, int keys, int queries) {
  const BackwardTile large = backward_tile(head_dim, kLargeSharedBytes);
  return large.keys == keys && large.queries == queries ? large : backward_tile(head_dim, 0);
}

// Blocks of the kernels before and after the backward: rows of queries of one head, for any head_dim.
constexpr int kBackwardRows = 64, kBackwardRowsThreads = 256;

}  // namespace cuda
}  // namespace fastbert
