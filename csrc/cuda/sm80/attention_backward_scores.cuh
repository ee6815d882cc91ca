// From scores to their gradients, in the registers of one warp: what may be seen, the weights, what was dropped, and
// sums over keys. Rows of all accumulators here are keys, columns queries.
#pragma once

#include <cmath>
#include <cstdint>

#include "../accumulator.cuh"
#include "../dropout.cuh"
#include "../mask.cuh"
#include "../sequence.cuh"
#include "../softmax.cuh"

namespace fastbert {
namespace cuda {
namespace {

// The keys of a warp that exist, are seen by somebody and are no padding.
template <int Keys>
struct WarpKeys {
  int first;
  std::uint32_t bits;  // bit j: key first + j. The same in every lane

  __device__ __forceinline__ static std::uint32_t living(const LivingKeys& living, Range seen, int first) {
    const int lane = static_cast<int>(threadIdx.x) % 32, key = first + lane;
    return __ballot_sync(0xFFFFFFFFu, lane < Keys && seen.begin <= key && key < seen.end && living(key));
  }

  // Whether a query may see a key.
  __device__ __forceinline__ bool seen(const Band& band, Range queries) const {
    const Range visible = band.keys(queries.begin, queries.end);
    return (bits & bits_between(visible.begin - first, visible.end - first)) != 0;
  }

  // Whether every query sees every key, and all keys live.
  __device__ __forceinline__ bool covered(const Band& band, Range queries) const {
    return bits == (Keys == 32 ? 0xFFFFFFFFu : (1u << Keys % 32) - 1) && band.covers(queries, {first, first + Keys});
  }
};

// The first living key from `key` on, forwards (Step = 1) or backwards (-1), 128 at a time: seq_k or -1 where there is
// none. By a whole warp.
template <int Step>
__device__ __forceinline__ int nearest_living(const LivingKeys& living, int key, int seq_k) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (; key >= 0 && key < seq_k; key += 128 * Step) {
    std::uint32_t found[4];
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const int mine = key + (32 * w + lane) * Step;
      found[w] = __ballot_sync(0xFFFFFFFFu, mine >= 0 && mine < seq_k && living(mine));
    }
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      if (found[w] != 0) return key + (32 * w + __ffs(found[w]) - 1) * Step;
    }
  }
  return Step > 0 ? seq_k : -1;
}

// The queries that see living keys of [begin, end) alone: none of the last one before it and the first one after.
__device__ __forceinline__ Range rows_inside(const Band& band, const LivingKeys& living, int begin, int end) {
  int before = begin - 1, after = end;
  if (living.bytes != nullptr) {
    before = nearest_living<-1>(living, before, band.seq_k);
    after = nearest_living<1>(living, after, band.seq_k);
  }
  return {before < 0 ? 0 : before + 1 - band.first, after >= band.seq_k ? band.seq_q : after - band.past + 1};
}

// Which rows of a tile of queries see a key: those whose lse is not -inf. ask() begins to read, bits() waits.
template <int Queries>
struct RowsThatSee {
  float lse[Queries / 32];  // of rows l, l + 32, ... in lane l

  __device__ __forceinline__ void ask(const float* first, int rows) {
#pragma unroll
    for (int w = 0; w < Queries / 32; ++w) {
      const int row = 32 * w + static_cast<int>(threadIdx.x) % 32;
      lse[w] = row < rows ? first[row] : -INFINITY;
    }
  }

  __device__ __forceinline__ std::uint64_t bits() const {
    std::uint64_t bits = 0;
#pragma unroll
    for (int w = 0; w < Queries / 32; ++w) {
      bits |= static_cast<std::uint64_t>(__ballot_sync(0xFFFFFFFFu, lse[w] != -INFINITY)) << (32 * w);
    }
    return bits;
  }
};

// What a weight and its gradient need of one row.
struct QueryRow {
  float lse, delta;
};

// An A operand of P^T or dS^T into a slice, from its row `key` and column `query` on.
template <class Slice>
__device__ __forceinline__ void store_a(const Slice& slice, const std::uint32_t (&a)[4], int key, int query) {
  const int lane = fresh_thread() % 32;
  const std::uint32_t place = slice.at(lane / 4, 0) + lane % 4 * 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) store_shared(moved<Slice>(place, key + i % 2 * 8, query + i / 2 * 8), a[i]);
}

struct WeightSums {
  int query;    // of the step
  float2 sums;  // over a warp's keys: of P, and of P dP
  bool writes;  // one lane of those that have it
};

// S^T and dP^T of one step, and what becomes of them.
template <int M, int N, bool Dropped>
struct ScoreGradients {
  Accumulator<M, N> p, ds;  // S, then P; dP, then dS
  KeptWeights<M, N> kept;

  __device__ __forceinline__ void clear() {
    p.clear();
    ds.clear();
    kept.bits = 0;
  }

  template <class Visit>
  __device__ __forceinline__ static void for_each(const Visit& visit) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) visit(m, n, i);
      }
    }
  }

  // S to P and dP to what of it was kept. `lse` is that of query l % (8 N) in lane l. All lanes of all warps come here,
  // whatever they see: exchanges between lanes that might have parted cost more.
  __device__ __forceinline__ void weigh(float lse, float factor, float survivors, bool covered, const Band& band,
                                        const WarpKeys<16 * M>& keys, int query) {
    const float mine = lse == -INFINITY ? -INFINITY : lse * -kLog2E;
    float offsets[N][2];
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) offsets[n][e] = __shfl_sync(0xFFFFFFFFu, mine, fragment_column(n, e));
    }
    for_each([&](int m, int n, int i) {
      p.c[m][n][i] = exp2_approximate(fmaf(p.c[m][n][i], factor, offsets[n][i % 2]));
      if constexpr (Dropped) ds.c[m][n][i] = kept(m, n, i) ? ds.c[m][n][i] * survivors : 0.0f;
    });
    if (covered) return;
    const int lane = fresh_thread() % 32;
    const int distance = keys.first + lane / 4 - (query + lane % 4 * 2 + band.first);  // from the band's first key
    const std::uint32_t width = static_cast<std::uint32_t>(band.past - band.first), living = keys.bits >> lane / 4;
    for_each([&](int m, int n, int i) {
      const int row = 16 * m + i / 2 * 8;
      const bool near = static_cast<std::uint32_t>(distance + row - 8 * n - i % 2) < width;
      if (!near || (living >> row & 1) == 0) p.c[m][n][i] = 0.0f;
    });
  }

  // dP to dS. `delta` of query l % (8 N) in lane l.
  __device__ __forceinline__ void differentiate(float delta) {
    float offsets[N][2];
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) offsets[n][e] = __shfl_sync(0xFFFFFFFFu, delta, fragment_column(n, e));
    }
    for_each([&](int m, int n, int i) { ds.c[m][n][i] = p.c[m][n][i] * (ds.c[m][n][i] - offsets[n][i % 2]); });
  }

  // Columns 16 s to 16 s + 15 of what was kept of P, as an A operand.
  template <class Element>
  __device__ __forceinline__ void kept_as_a(std::uint32_t (&a)[4], int m, int s) const {
    if constexpr (Dropped) {
      const auto pair = [&](int n, int half) {
        const int i = 2 * half;
        return pack<Element>(kept(m, n, i) ? p.c[m][n][i] : 0.0f, kept(m, n, i + 1) ? p.c[m][n][i + 1] : 0.0f);
      };
      a[0] = pair(2 * s, 0);
      a[1] = pair(2 * s, 1);
      a[2] = pair(2 * s + 1, 0);
      a[3] = pair(2 * s + 1, 1);
    } else {
      as_a<Element>(a, p, m, s);
    }
  }

  // Of one query for each lane. Lanes with the same queries halve what they hold and swap it, until each has one.
  __device__ __forceinline__ WeightSums sum_of_keys() const {
    constexpr int kColumns = 2 * N;
    float2 sums[kColumns];
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float2 sum{0.0f, 0.0f};
#pragma unroll
        for (int m = 0; m < M; ++m) {
#pragma unroll
          for (int i = e; i < 4; i += 2) {
            sum.x += p.c[m][n][i];
            sum.y = fmaf(p.c[m][n][i], ds.c[m][n][i], sum.y);
          }
        }
        sums[2 * n + e] = sum;
      }
    }
    const int lane = fresh_thread() % 32;
    int column = 0, count = kColumns;
    bool writes = true;
#pragma unroll
    for (int distance = 16; distance >= 4; distance /= 2) {
      const bool upper = (lane & distance) != 0;
      const int half = count / 2;
      if (count > 1) {
#pragma unroll
        for (int j = 0; j < half; ++j) {
          const float2 keep = upper ? sums[j + half] : sums[j], give = upper ? sums[j] : sums[j + half];
          sums[j].x = keep.x + __shfl_xor_sync(0xFFFFFFFFu, give.x, distance);
          sums[j].y = keep.y + __shfl_xor_sync(0xFFFFFFFFu, give.y, distance);
        }
        column += upper ? half : 0;
        count = half;
      } else {
        sums[0].x += __shfl_xor_sync(0xFFFFFFFFu, sums[0].x, distance);
        sums[0].y += __shfl_xor_sync(0xFFFFFFFFu, sums[0].y, distance);
        writes = writes && !upper;
      }
    }
    return {8 * (column / 2) + lane % 4 * 2 + column % 2, sums[0], writes};
  }
};

}  // namespace
}  // namespace cuda
}  // namespace fastbert
