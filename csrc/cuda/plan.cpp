#include "plan.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <utility>

#include "tile_choice.h"

namespace fastbert {
namespace cuda {
namespace {

constexpr std::int64_t kMostGridX = (std::int64_t{1} << 31) - 1, kMostGridY = 65535;  // of any device

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return a / b + (a % b != 0); }

bool packed(const AttentionParams& params) { return params.cu_seqlens_q != nullptr; }
std::int64_t rows_q(const AttentionParams& params) {
  return packed(params) ? params.total_q : params.batch * params.seq_q;
}
std::int64_t rows_k(const AttentionParams& params) {
  return packed(params) ? params.total_k : params.batch * params.seq_k;
}

std::string element(const AttentionParams& params) {
  if (params.dtype == DType::bfloat16) return "bf16";
  if (params.dtype == DType::float16) return "f16";
  throw std::invalid_argument("the CUDA kernels compute in bfloat16 and float16, not in float32");
}

void check(const AttentionParams& params) {
  if (params.head_dim % 8 != 0) {
    throw std::invalid_argument("head_dim is " + std::to_string(params.head_dim) +
                                ": the CUDA kernels take multiples of 8, filled up with zeros");
  }
  const std::int64_t longest = std::max(params.seq_q, params.seq_k);
  if (longest > kMostRows) {
    throw std::invalid_argument("a sequence of " + std::to_string(longest) + " rows: the CUDA kernels take at most " +
                                std::to_string(kMostRows));
  }
}

// At least one tile a head, since a block must write what a sequence without rows on the other side gets: zeros.
BlockGrid grid_of(const AttentionParams& params, std::int64_t heads, std::int64_t rows, int tile) {
  const std::int64_t sequences = params.batch + (packed(params) ? 1 : 0);
  const std::int64_t tiles = std::max<std::int64_t>(ceil_div(rows, tile), 1);
  return {sequences * heads * tiles, tiles};
}

Launch launch_of(std::string kernel, const BlockGrid& grid, int threads, int shared_bytes) {
  const std::int64_t y = ceil_div(grid.blocks, kMostGridX);
  if (y > kMostGridY) {
    throw std::invalid_argument("a call of " + std::to_string(grid.blocks) + " blocks: a launch has at most " +
                                std::to_string(kMostGridX * kMostGridY) +
                                "; is max_seqlen far above the longest sequence?");
  }
  const std::int64_t x = ceil_div(grid.blocks, y);
  return {std::move(kernel),
          {static_cast<unsigned>(x), static_cast<unsigned>(y), 1},
          static_cast<unsigned>(threads),
          static_cast<unsigned>(shared_bytes)};
}

BackwardTile backward_tile_for(const AttentionParams& params, const DeviceLimits& limits) {
  return backward_tile(tile_head_dim(static_cast<int>(params.head_dim)), limits.shared_bytes);
}

// Where its parts begin, in bytes; delta comes first.
struct Workspace {
  std::size_t dq_sum, turns;
  std::int64_t turns_of_head;
  std::size_t bytes;
};

Workspace workspace_of(const AttentionParams& params, const BackwardTile& tile, bool deterministic) {
  constexpr std::size_t kAlignment = 256;
  const auto aligned = [](std::int64_t bytes) {
    return (static_cast<std::size_t>(bytes) + kAlignment - 1) / kAlignment * kAlignment;
  };
  if (params.seq_k <= tile.keys || rows_q(params) == 0) return {};
  const std::int64_t rows = rows_q(params) * params.heads;
  const std::size_t dq_sum = aligned(rows * static_cast<std::int64_t>(sizeof(float)));
  const std::size_t turns = dq_sum + aligned(rows * params.head_dim * static_cast<std::int64_t>(sizeof(float)));
  const std::int64_t turns_of_head = packed(params) ? params.total_q / tile.queries + params.batch
                                                    : params.batch * ceil_div(params.seq_q, tile.queries);
  const std::int64_t turn_bytes = params.heads * turns_of_head * static_cast<std::int64_t>(sizeof(std::uint32_t));
  return {dq_sum, turns, turns_of_head, turns + (deterministic ? aligned(turn_bytes) : 0)};
}

std::string suffix(const AttentionParams& params) { return params.dropout_threshold > 0 ? "_dropout" : ""; }

}  // namespace

ForwardPlan plan_launch(const AttentionForwardParams& params, const std::uint64_t* rng, const DeviceLimits&) {
  check(params);
  const int head_dim = tile_head_dim(static_cast<int>(params.head_dim));
  const ForwardTile tile = forward_tile(head_dim);
  const std::string kernel = "fastbert_attention_forward_" + element(params) + "_" + std::to_string(head_dim);
  ForwardPlan plan{};
  static_cast<AttentionForwardParams&>(plan.params) = params;
  plan.params.rng = rng;
  plan.params.grid = grid_of(params, params.heads, params.seq_q, tile.queries);
  if (rows_q(params) == 0 || plan.params.grid.blocks == 0) return plan;
  plan.launches.push_back(
      launch_of(kernel + suffix(params), plan.params.grid, tile.threads(), tile.shared_bytes(head_dim)));
  return plan;
}

std::size_t backward_workspace(const AttentionBackwardParams& params, bool deterministic, const DeviceLimits& limits) {
  check(params);
  return workspace_of(params, backward_tile_for(params, limits), deterministic).bytes;
}

BackwardPlan plan_launch(const AttentionBackwardParams& params, const std::uint64_t* rng, bool deterministic,
                         void* workspace, const DeviceLimits& limits) {
  check(params);
  const int head_dim = tile_head_dim(static_cast<int>(params.head_dim));
  const BackwardTile tile = backward_tile_for(params, limits);
  const std::string family = "fastbert_attention_backward_", type = element(params);
  BackwardPlan plan{};
  static_cast<AttentionBackwardParams&>(plan.params) = params;
  plan.params.rng = rng;
  plan.params.grid = grid_of(params, params.kv_heads, params.seq_k, tile.keys);
  plan.params.rows = grid_of(params, params.heads, params.seq_q, kBackwardRows);
  if ((rows_q(params) == 0 && rows_k(params) == 0) || plan.params.grid.blocks == 0) return plan;

  const Workspace parts = workspace_of(params, tile, deterministic);
  if (parts.bytes > 0) {
    if (workspace == nullptr) throw std::invalid_argument("workspace is null: the backward of this call needs one");
    char* start = static_cast<char*>(workspace);
    plan.params.delta = reinterpret_cast<float*>(start);
    plan.params.dq_sum = reinterpret_cast<float*>(start + parts.dq_sum);
    if (deterministic) {
      plan.params.turns = reinterpret_cast<std::uint32_t*>(start + parts.turns);
      plan.params.turns_of_head = parts.turns_of_head;
    }
  }
  const Launch main = launch_of(family + type + "_" + std::to_string(head_dim) + "_" + std::to_string(tile.keys) + "x" +
                                    std::to_string(tile.queries) + suffix(params),
                                plan.params.grid, tile.threads(), tile.shared_bytes(head_dim));
  const auto rows = [&](const char* what) {
    return launch_of(family + what + type, plan.params.rows, kBackwardRowsThreads, 0);
  };
  if (parts.bytes > 0) {
    plan.launches = {rows("prepare_"), main, rows("finish_")};
  } else {
    plan.launches = {main};
  }
  return plan;
}

}  // namespace cuda
}  // namespace fastbert
