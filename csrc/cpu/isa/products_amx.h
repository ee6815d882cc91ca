// Attention's products in bfloat16 on AMX tiles, with float32 sums.
//
// What goes through tiles is rounded to bfloat16 once: q, k, v and dO are that already, P and dS become it. Queries are
// packed as they are, so scores come out without the scale.
#pragma once

#include "amx.h"
#include "dropout.h"
#include "scratch.h"
#include "strips.h"
#include "vector_avx512.h"

namespace fastbert {
namespace {

struct AmxProducts {
  using Vector = fastbert::Vector;
  using Session = TileSession;
  static constexpr int group_rows = 64;  // two steps of a product over queries
  static constexpr int strip_rows = kAmxRows;
  static constexpr int panel = kAmxDepth;
  static constexpr bool scaled = false;

  static int width_of(std::int64_t head_dim) { return static_cast<int>(round_up(head_dim, 16)); }
  static int depth_of(std::int64_t head_dim) { return static_cast<int>(round_up(head_dim, kAmxDepth)); }

  // scores[row][column] = left[row] . keys[column], where a strip sees the column's panel; strips in pairs where both
  // do.
  static void by_keys(const Strips<AmxProducts>& strips, const std::uint16_t* left, int depth, const std::uint8_t* keys,
                      float* scores, std::ptrdiff_t stride) {
    const int steps = depth / kAmxDepth;
    for (int s = 0; s < strips.count; s += 2) {
      const Strip &upper = strips.strip[s], &lower = strips.strip[s + 1 < strips.count ? s + 1 : s];
      const bool paired = s + 1 < strips.count;
      for (int column = strips.first_column; column < strips.past_column; column += panel) {
        const bool above = column >= upper.begin && column < upper.end;
        const bool below = paired && column >= lower.begin && column < lower.end;
        if (!above && !below) continue;
        const int row = above ? upper.row : lower.row;
        const TileRight right{keys + column / 16 * steps * kAmxTileBytes, steps * kAmxTileBytes};
        multiply_tiles<false>(above && below ? 2 : 1, {left + row * depth, depth}, 2, right,
                              {scores + row * stride + column, stride}, steps);
      }
    }
  }

  // out[row] (+)= weights[row] * rows, over the columns that each strip sees; strips in pairs where they see the same.
  template <bool Accumulate>
  static void by_rows(const Strips<AmxProducts>& strips, const std::uint16_t* weights, std::ptrdiff_t weight_pitch,
                      const std::uint8_t* rows, int row_steps, int width, float* out, std::ptrdiff_t pitch) {
    for (int s = 0; s < strips.count; ++s) {
      const Strip& strip = strips.strip[s];
      if (strip.empty()) continue;
      const Strip* next = s + 1 < strips.count ? &strips.strip[s + 1] : nullptr;
      const bool paired = next != nullptr && next->begin == strip.begin && next->end == strip.end;
      const TileRight right{rows + strip.begin / kAmxDepth * kAmxTileBytes, row_steps * kAmxTileBytes};
      multiply_tiles<Accumulate>(paired ? 2 : 1, {weights + strip.row * weight_pitch + strip.begin, weight_pitch},
                                 width / 16, right, {out + strip.row * pitch, pitch},
                                 (strip.end - strip.begin) / kAmxDepth);
      if (paired) ++s;
    }
  }

  // Float32 rows of the tile, over the columns that their strip sees, to bfloat16.
  static void narrow(const Strips<AmxProducts>& strips, const float* in, std::ptrdiff_t stride, std::uint16_t* out,
                     std::ptrdiff_t pitch) {
    for (const Strip& strip : strips) {
      for (int row = strip.row; row < strip.row + strip.rows; ++row) {
        for (int column = strip.begin; column < strip.end; column += Vector::lanes) {
          Vector::store_bfloat16(out + row * pitch + column, Vector::load(in + row * stride + column));
        }
      }
    }
  }

  class Forward {
   public:
    Forward(std::int64_t head_dim, std::int64_t rows, std::int64_t keys, Scratch& scratch)
        : width_(width_of(head_dim)), depth_(depth_of(head_dim)), pitch_(row_pitch(width_)), keys_of_block_(keys) {
      queries_ = scratch.halves(rows * depth_);
      keys_ = scratch.bytes(keys * depth_ * 2);
      values_ = scratch.bytes(keys * width_ * 2);
      weights_ = scratch.halves(group_rows * keys);
    }

    void load_queries(const Rows& q, Range queries, std::int64_t row, float) {
      pack_left<Vector>(q, queries.begin, static_cast<int>(queries.end - queries.begin), queries_ + row * depth_,
                        depth_);
    }

    void load_keys(const Rows& k, const Rows& v, std::int64_t first, int count) {
      pack_right_transposed<Vector>(k, first, count, depth_ / kAmxDepth, keys_);
      pack_right<Vector>(v, first, count, width_ / 16, values_);
    }

    void multiply_keys(const Strips<AmxProducts>& strips, std::int64_t row, float* scores, std::ptrdiff_t stride) {
      by_keys(strips, queries_ + row * depth_, depth_, keys_, scores, stride);
    }

    void add_values(const Strips<AmxProducts>& strips, const float* weights, std::ptrdiff_t stride, int count,
                    float* out) {
      narrow(strips, weights, stride, weights_, keys_of_block_);
      by_rows<true>(strips, weights_, keys_of_block_, values_, static_cast<int>(ceil_divide(count, kAmxDepth)), width_,
                    out, pitch_);
    }

   private:
    int width_, depth_;
    std::ptrdiff_t pitch_, keys_of_block_;
    std::uint16_t *queries_, *weights_;
    std::uint8_t *keys_, *values_;
  };

  class Backward {
   public:
    static std::int64_t chunk(std::int64_t head_dim) {
      return lesser(256, 16384 / width_of(head_dim) / kTileColumns * kTileColumns);
    }

    Backward(std::int64_t head_dim, std::int64_t keys, Scratch& scratch)
        : width_(width_of(head_dim)),
          depth_(depth_of(head_dim)),
          pitch_(row_pitch(width_)),
          keys_(keys),
          key_pitch_(row_pitch(keys)) {
      key_columns_ = scratch.bytes(keys * depth_ * 2);
      value_columns_ = scratch.bytes(keys * depth_ * 2);
      key_rows_ = scratch.bytes(keys * width_ * 2);
      q_ = scratch.halves(group_rows * depth_);
      dout_ = scratch.halves(group_rows * depth_);
      q_transposed_ = scratch.halves(group_rows * width_);
      dout_transposed_ = scratch.halves(group_rows * width_);
      dk_transposed_ = scratch.floats(width_ * key_pitch_);
      dv_transposed_ = scratch.floats(width_ * key_pitch_);
      pairs_ = scratch.bytes(group_rows * keys * 2);
      gradients_ = scratch.halves(group_rows * keys);
      rows_ = scratch.floats(16 * pitch_);
    }

    void load_keys(const Rows& k, const Rows& v, std::int64_t first, int count) {
      pack_right_transposed<Vector>(k, first, count, depth_ / kAmxDepth, key_columns_);
      pack_right_transposed<Vector>(v, first, count, depth_ / kAmxDepth, value_columns_);
      pack_right<Vector>(k, first, count, width_ / 16, key_rows_);
      std::memset(dk_transposed_, 0, sizeof(float) * static_cast<std::size_t>(width_ * key_pitch_));
      std::memset(dv_transposed_, 0, sizeof(float) * static_cast<std::size_t>(width_ * key_pitch_));
    }

    void load_queries(const Rows& q, const Rows& dout, int count, float) {
      rows_of_group_ = count;
      pack_left<Vector>(q, 0, count, q_, depth_);
      pack_left<Vector>(dout, 0, count, dout_, depth_);
      pack_left_transposed<Vector>(q, count, width_ / 16, q_transposed_, group_rows);
      pack_left_transposed<Vector>(dout, count, width_ / 16, dout_transposed_, group_rows);
    }

    void multiply_keys(const Strips<AmxProducts>& strips, float* scores, float* gradients, std::ptrdiff_t stride) {
      by_keys(strips, q_, depth_, key_columns_, scores, stride);
      by_keys(strips, dout_, depth_, value_columns_, gradients, stride);
    }

    // dV^T += dO^T P, dK^T += Q^T dS: so P and dS are read as they lie, two rows at a time.
    void add_to_keys(const Strips<AmxProducts>& strips, const Band&, const KeyBlock&, Range, const float* weights,
                     const float* gradients, std::ptrdiff_t stride) {
      add_transposed(strips, weights, stride, dout_transposed_, dv_transposed_);
      add_transposed(strips, gradients, stride, q_transposed_, dk_transposed_);
    }

    void multiply_gradients(const Strips<AmxProducts>& strips, const float* gradients, std::ptrdiff_t stride, int count,
                            float* dq) {
      narrow(strips, gradients, stride, gradients_, keys_);
      by_rows<false>(strips, gradients_, keys_, key_rows_, static_cast<int>(ceil_divide(count, kAmxDepth)), width_, dq,
                     pitch_);
    }

    void store_keys(DType dtype, int count, int dim, float dk_factor, void* dk, float dv_factor, void* dv,
                    std::int64_t row_stride) {
      store_transposed(dtype, count, dim, dk_transposed_, dk_factor, dk, row_stride);
      store_transposed(dtype, count, dim, dv_transposed_, dv_factor, dv, row_stride);
    }

   private:
    void add_transposed(const Strips<AmxProducts>& strips, const float* in, std::ptrdiff_t stride,
                        const std::uint16_t* left, float* out) {
      constexpr int kSteps = group_rows / kAmxDepth;
      for (int column = strips.first_column; column < strips.past_column; column += 16) {
        for (int row = 0; row < group_rows; row += 2) {
          const __m512 upper = row < rows_of_group_ ? _mm512_loadu_ps(in + row * stride + column) : _mm512_setzero_ps();
          const __m512 lower =
              row + 1 < rows_of_group_ ? _mm512_loadu_ps(in + (row + 1) * stride + column) : _mm512_setzero_ps();
          _mm512_storeu_si512(
              pairs_ + (column / 16 * kSteps + row / kAmxDepth) * kAmxTileBytes + row % kAmxDepth / 2 * 64,
              interleave_rows(upper, lower));
        }
      }
      const TileRight right{pairs_ + strips.first_column / 16 * kSteps * kAmxTileBytes, kSteps * kAmxTileBytes};
      for (int row = 0; row < width_; row += 2 * kAmxRows) {
        multiply_tiles<true>(width_ - row > kAmxRows ? 2 : 1, {left + row * group_rows, group_rows},
                             (strips.past_column - strips.first_column) / 16, right,
                             {out + row * key_pitch_ + strips.first_column, key_pitch_}, kSteps);
      }
    }

    void store_transposed(DType dtype, int count, int dim, const float* in, float factor, void* out,
                          std::int64_t row_stride) {
      for (int key = 0; key < count; key += 16) {
        for (int column = 0; column < width_; column += 16) {
          Vector::Float block[16];
          for (int lane = 0; lane < 16; ++lane) block[lane] = Vector::load(in + (column + lane) * key_pitch_ + key);
          Vector::transpose(block);
          for (int lane = 0; lane < 16; ++lane) Vector::store(rows_ + lane * pitch_ + column, block[lane]);
        }
        unpack_rows<Vector>(dtype, {rows_, pitch_, static_cast<int>(lesser(16, count - key)), dim, factor, nullptr,
                                    at(dtype, out, key * row_stride), row_stride});
      }
    }

    int width_, depth_, rows_of_group_ = 0;
    std::ptrdiff_t pitch_, keys_, key_pitch_;
    std::uint8_t *key_columns_, *value_columns_, *key_rows_, *pairs_;
    std::uint16_t *q_, *dout_, *q_transposed_, *dout_transposed_, *gradients_;
    float *dk_transposed_, *dv_transposed_, *rows_;
  };
};

}  // namespace
}  // namespace fastbert
