// What every instruction set offers attention: one piece of the forward, one of the backward, and the memory they need.
//
// Which pieces there are, who runs them and in which order is decided in attention_forward.cpp and
// attention_backward.cpp; here is what a piece computes. Pieces are as large as pays for packing their keys once and as
// small as lets their operands stay in the second-level cache.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../attention_geometry.h"

namespace fastbert {

// Some queries of some query heads that share a key head, against all the keys they see.
struct ForwardPiece {
  const AttentionForwardParams* params;
  Sequence sequence;
  std::int64_t first_head;   // of the query heads; all share one key head
  std::int64_t first_query;  // a multiple of forward_group
  int heads, queries;
};

// How pieces of one sequence take turns in adding to dQ; see turns.h.
struct BackwardTurns;

// Some keys of one key head, against all the queries that see them.
struct BackwardPiece {
  const AttentionBackwardParams* params;
  Sequence sequence;
  std::int64_t kv_head;
  std::int64_t first_key;  // a multiple of the chunk
  int keys;
  bool whole;  // these are all the keys of the sequence, so dQ is complete after this piece
  BackwardTurns* turns;
};

struct AttentionKernels {
  int forward_group;          // queries travel in groups of so many, a multiple of 16
  std::int64_t forward_rows;  // the most that should share one packing of keys, whole groups
  // Bytes of scratch, aligned to 64, that a piece of at most so many rows (heads * rounded queries) and keys needs.
  std::size_t (*forward_scratch)(std::int64_t head_dim, std::int64_t rows, std::int64_t seq_k);
  void (*forward)(const ForwardPiece& piece, void* scratch);
  int backward_group;  // as above; pieces that add to the same group of dQ take turns
  // The most keys of one backward piece: a multiple of 32.
  std::int64_t (*backward_chunk)(std::int64_t head_dim);
  std::size_t (*backward_scratch)(std::int64_t head_dim, std::int64_t seq_k);
  void (*backward)(const BackwardPiece& piece, void* scratch);
};

const AttentionKernels& attention_kernels_generic();
const AttentionKernels& attention_kernels_avx2();
const AttentionKernels& attention_kernels_avx512();
const AttentionKernels& attention_kernels_avx512_bf16();  // bfloat16 only, as the next one
const AttentionKernels& attention_kernels_amx();

}  // namespace fastbert
