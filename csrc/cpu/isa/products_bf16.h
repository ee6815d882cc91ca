// Attention's backward in bfloat16 on tiles, transposed: keys are the rows of a tile of scores, queries its columns.
// Tiles is who multiplies (tile_product.h).
//
//   S^T = K Q^T,  dP^T = V dO^T           P^T and dS^T from them, a query a lane: nothing is summed across a vector
//   dV += P^T dO,  dK += dS^T Q           P^T and dS^T as A operands
//   dQ^T = K^T dS^T                       dS^T as B operand
//
// What goes through tiles is rounded to bfloat16 once: q, k, v and dO are that already, P and dS become it as they
// leave the registers, in the forms that the next products read. Depth over queries runs through two strips of 16 in
// turn: 0, 16, 1, 17, ..., so that the vectors of the two make one row of an operand without a shuffle.
#pragma once

#include "attention_kernels.h"
#include "backward_group.h"
#include "strips.h"
#include "tile_product.h"
#include "weights_bf16.h"

namespace fastbert {
namespace {

template <class Tiles>
struct Bf16Products {
  using Vector = Bf16Vector;
  using Session = typename Tiles::Session;
  static constexpr int group_rows = 128;
  static constexpr int panel = kChunk;
  static constexpr bool transposed = true;
  static constexpr bool scaled = false;

  static int width_of(std::int64_t head_dim) { return static_cast<int>(round_up(head_dim, 16)); }

  class Backward {
   public:
    using Group = BackwardGroup<group_rows>;

    // Operands and gradients of a chunk fit in the second-level cache together with a group.
    static std::int64_t chunk(std::int64_t head_dim) {
      return lesser(kMostKeys, kMostKeys * 64 / width_of(head_dim) / kChunk * kChunk);
    }

    Backward(std::int64_t head_dim, std::int64_t keys, Scratch& scratch)
        : tiles_(static_cast<int>(ceil_divide(head_dim, 16))),
          steps_(static_cast<int>(ceil_divide(head_dim, kTileDepth))),
          pitch_(row_pitch(width_of(head_dim))) {
      const std::int64_t depth = steps_ * kTileDepth, width = tiles_ * 16, chunks = keys / kChunk;
      k_ = scratch.halves(keys * depth);
      v_ = scratch.halves(keys * depth);
      k_transposed_ = scratch.halves(keys * width);
      dk_ = scratch.floats(keys * pitch_);
      dv_ = scratch.floats(keys * pitch_);
      q_columns_ = scratch.bytes(group_rows * depth * 2);
      dout_columns_ = scratch.bytes(group_rows * depth * 2);
      q_rows_ = scratch.bytes(group_rows * width * 2);
      dout_rows_ = scratch.bytes(group_rows * width * 2);
      scores_ = scratch.floats(keys * 2 * kStrip);
      gradients_ = scratch.floats(keys * 2 * kStrip);
      strip_bytes_ = keys * kStrip;
      bytes_ = scratch.bytes(2 * strip_bytes_);
      weights_ = scratch.bytes(chunks * kPairs * 2 * kTileBytes);
      ds_ = scratch.bytes(chunks * kPairs * 2 * kTileBytes);
      ds_columns_ = scratch.bytes(chunks * 2 * kTileBytes);
      dq_transposed_ = scratch.floats(width * 2 * kStrip);
    }

    void load_keys(const Rows& k, const Rows& v, std::int64_t first, int count) {
      const int depth = steps_ * kTileDepth;
      for (int key = 0; key < count; key += kChunk) {
        const int here = static_cast<int>(lesser(kChunk, count - key));
        prefetch_rows(k, first + key + kChunk, kChunk);
        prefetch_rows(v, first + key + kChunk, kChunk);
        pack_left<Vector>(k, first + key, here, steps_, k_ + key * depth);
        pack_left<Vector>(v, first + key, here, steps_, v_ + key * depth);
        pack_left_transposed<Vector>(k, first + key, here, tiles_, k_transposed_ + key * tiles_ * 16, kTileDepth);
      }
      const auto bytes = sizeof(float) * static_cast<std::size_t>(round_up(count, kChunk) * pitch_);
      std::memset(dk_, 0, bytes);
      std::memset(dv_, 0, bytes);
    }

    // The rows 0 to count - 1 of a group.
    void load_queries(const Rows& q, const Rows& dout, int count, float) {
      pairs_ = static_cast<int>(ceil_divide(count, 2 * kStrip));
      for (int strip = 0; strip < 2 * pairs_; ++strip) {
        const int row = strip * kStrip, here = static_cast<int>(clamp(count - row, 0, kStrip));
        prefetch_rows(q, row + kStrip, kStrip);
        prefetch_rows(dout, row + kStrip, kStrip);
        pack_strip(q, row, here, steps_, q_columns_ + strip * steps_ * kTileBytes);
        pack_strip(dout, row, here, steps_, dout_columns_ + strip * steps_ * kTileBytes);
      }
      for (int pair = 0; pair < pairs_; ++pair) {
        const int row = pair * 2 * kStrip, here = static_cast<int>(lesser(2 * kStrip, count - row));
        pack_right<Vector>(q, row, here, tiles_, q_rows_ + pair * tiles_ * kTileBytes);
        pack_right<Vector>(dout, row, here, tiles_, dout_rows_ + pair * tiles_ * kTileBytes);
      }
    }

    // Adds to dK and dV, and writes dQ in rows of `pitch`.
    void differentiate(const AttentionParams& params, const Sequence& sequence, const Band& band, const KeyBlock& block,
                       const Group& group, float* dq, std::ptrdiff_t pitch) {
      for (int pair = 0; pair < pairs_; ++pair) {
        const std::int64_t first = group.queries.begin + pair * 2 * kStrip;
        const Range seen = band.keys(first, lesser(first + 2 * kStrip, group.queries.end));
        const std::int64_t begin = clamp(seen.begin - block.first, 0, block.count);
        const std::int64_t end = clamp(seen.end - block.first, 0, block.count);
        seen_[pair] = begin < end ? Range{begin / kChunk, ceil_divide(end, kChunk)} : Range{0, 0};
        multiply(k_, q_columns_, pair, scores_);
        multiply(v_, dout_columns_, pair, gradients_);
        weigh(params, sequence, band, block, group, pair);
        multiply_gradients(pair, dq + pair * 2 * kStrip * pitch, pitch);
      }
      for (std::int64_t chunk = 0; chunk < ceil_divide(block.count, kChunk); ++chunk) {
        add_to_keys(chunk, weights_, dout_rows_, dv_);
        add_to_keys(chunk, ds_, q_rows_, dk_);
      }
    }

    void store_keys(DType dtype, int count, int dim, float dk_factor, void* dk, float dv_factor, void* dv,
                    std::int64_t row_stride) {
      unpack_rows<Vector>(dtype, {dk_, pitch_, count, dim, dk_factor, nullptr, dk, row_stride});
      unpack_rows<Vector>(dtype, {dv_, pitch_, count, dim, dv_factor, nullptr, dv, row_stride});
    }

   private:
    static constexpr std::int64_t kMostKeys = 512;
    static constexpr int kPairs = group_rows / (2 * kStrip);
    static constexpr int kTile = kTileBytes / 4, kHalfTile = kTileBytes / 2;

    // Of a chunk: two tiles of one strip, two of the other.
    void multiply(const std::uint16_t* keys, const std::uint8_t* queries, int pair, float* out) const {
      const std::ptrdiff_t strip_bytes = steps_ * kTileBytes;
      const std::uint8_t* right = queries + 2 * pair * strip_bytes;
      for (std::int64_t chunk = seen_[pair].begin; chunk < seen_[pair].end; ++chunk) {
        const std::uint16_t* left = keys + chunk * steps_ * kChunkNumbers;
        Tiles::multiply({true, true, false, out + chunk * 4 * kTile, kStrip, 2 * kTile, strip_bytes}, steps_,
                        [&](int step) { return TileOperands{left + step * kChunkNumbers, right + step * kTileBytes}; });
      }
    }

    void weigh(const AttentionParams& params, const Sequence& sequence, const Band& band, const KeyBlock& block,
               const Group& group, int pair) {
      const int threshold = params.dropout_threshold;
      __m512 deltas[2];
      for (int j = 0; j < 2; ++j) {
        const int row = (2 * pair + j) * kStrip;
        WeightSums sums{_mm512_setzero_ps(), _mm512_setzero_ps()};
        const Range queries{group.queries.begin + row, lesser(group.queries.begin + row + kStrip, group.queries.end)};
        std::uint8_t* bytes = bytes_ + j * strip_bytes_;
        if (threshold > 0) {
          fill_pairs(params, sequence, group.head, queries.begin, block.first + seen_[pair].begin * kChunk,
                     seen_[pair].end - seen_[pair].begin, bytes + seen_[pair].begin * kChunk * kStrip);
        }
        for (std::int64_t chunk = seen_[pair].begin; chunk < seen_[pair].end; ++chunk) {
          const Range keys{block.first + chunk * kChunk, block.first + (chunk + 1) * kChunk};
          const bool masked = block.living != nullptr || queries.empty() || !band.covers(queries, keys);
          const ChunkMask mask{band, queries.begin, keys.begin, block.living, block.first};
          const auto weigh_chunk =
              threshold > 0 ? (masked ? weigh_backward<Tiles, true, true> : weigh_backward<Tiles, false, true>)
                            : (masked ? weigh_backward<Tiles, true, false> : weigh_backward<Tiles, false, false>);
          const std::int64_t place = (2 * chunk + j) * 2 * kTile;
          weigh_chunk(scores_ + place, gradients_ + place, params.scale, group.lse + row, mask,
                      {bytes + chunk * kChunk * kStrip, threshold}, sums);
        }
        // The weights add up to 1 but for the rounding of lse. Divided by their sum, it cancels in dP - delta.
        const __mmask16 any = _mm512_cmp_ps_mask(sums.weights, _mm512_setzero_ps(), _CMP_NEQ_UQ);
        const __m512 average = Vector::or_zero(any, sums.products / sums.weights);
        const __mmask16 sums_weights = Vector::nonzero(group.sums_weights + row);
        deltas[j] = Vector::load(group.delta + row) + Vector::or_zero(sums_weights, average);
      }
      const auto differentiate_chunk = threshold > 0 ? differentiate_backward<true> : differentiate_backward<false>;
      for (std::int64_t chunk = seen_[pair].begin; chunk < seen_[pair].end; ++chunk) {
        const std::ptrdiff_t place = (chunk * kPairs + pair) * 2 * kTileBytes;
        differentiate_chunk(scores_ + chunk * 4 * kTile, gradients_ + chunk * 4 * kTile, deltas,
                            {bytes_ + chunk * kChunk * kStrip, threshold}, strip_bytes_, weights_ + place, ds_ + place,
                            ds_columns_ + chunk * 2 * kTileBytes);
      }
    }

    // dQ of two strips: dQ^T = K^T dS^T, and back to rows.
    void multiply_gradients(int pair, float* dq, std::ptrdiff_t pitch) {
      const std::int64_t begin = seen_[pair].begin;
      const int chunks = static_cast<int>(seen_[pair].end - begin);
      for (int tile = 0; tile < tiles_; tile += 2) {
        Tiles::multiply(
            {tile + 1 < tiles_, true, false, dq_transposed_ + tile * kTile, kStrip, tiles_ * kTile, kTileBytes}, chunks,
            [&](int i) {
              return TileOperands{k_transposed_ + ((begin + i) * tiles_ + tile) * kHalfTile,
                                  ds_columns_ + (begin + i) * 2 * kTileBytes};
            });
      }
      for (int tile = 0; tile < tiles_; ++tile) {
        for (int j = 0; j < 2; ++j) {
          __m512 numbers[16];
          const float* in = dq_transposed_ + (j * tiles_ + tile) * kTile;
          for (int lane = 0; lane < 16; ++lane) numbers[lane] = Vector::load(in + lane * kStrip);
          Vector::transpose(numbers);
          float* out = dq + j * kStrip * pitch + tile * 16;
          for (int lane = 0; lane < 16; ++lane) Vector::store(out + lane * pitch, numbers[lane]);
        }
      }
    }

    // out[key] += the sum over the queries that see the chunk of weights[key][query] * rows[query].
    void add_to_keys(std::int64_t chunk, const std::uint8_t* weights, const std::uint8_t* rows, float* out) const {
      int seeing[kPairs], count = 0;
      for (int pair = 0; pair < pairs_; ++pair) {
        if (chunk >= seen_[pair].begin && chunk < seen_[pair].end) seeing[count++] = pair;
      }
      for (int tile = 0; tile < tiles_; tile += 2) {
        Tiles::multiply(
            {true, tile + 1 < tiles_, true, out + chunk * kChunk * pitch_ + tile * 16, pitch_, 16, kTileBytes}, count,
            [&](int i) {
              return TileOperands{weights + (chunk * kPairs + seeing[i]) * 2 * kTileBytes,
                                  rows + (seeing[i] * tiles_ + tile) * kTileBytes};
            });
      }
    }

    int tiles_, steps_, pairs_ = 0;
    std::ptrdiff_t pitch_, strip_bytes_;  // of random bytes, those of one strip
    Range seen_[kPairs];                  // chunks, by pair of strips
    std::uint16_t *k_, *v_, *k_transposed_;
    std::uint8_t *q_columns_, *dout_columns_, *q_rows_, *dout_rows_, *bytes_, *weights_, *ds_, *ds_columns_;
    float *dk_, *dv_, *scores_, *gradients_, *dq_transposed_;
  };
};

}  // namespace
}  // namespace fastbert
