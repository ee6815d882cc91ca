// The forward of attention in bfloat16 on tiles, transposed: keys are the rows of a tile, queries its columns. Tiles is
// who multiplies (tile_product.h).
//
//   S^T = K Q^T            scores of a chunk of 32 keys against a strip of 16 queries
//   P^T = 2^(c S^T - b)    b bounds the row's scores, so there is no maximum to look for and nothing to rescale
//   O^T += V^T kept(P)^T,  sums += 1 P^T
//   out = O / (sums * probability of survival),   lse = ln(2) (b + log2(sum of P before it is cut to bfloat16))
//
// |q . k| <= |q| |k|, so b is that of the longest key, less kHeadroom: the softmax is the same for any b as long as no
// weight that counts leaves the range of float32. Rows of which that is not certain in the end (their bound was too
// loose, or what they met was not finite) are computed again with the running maximum, in float32
// (attention_forward.h).
//
// In this form a query is a lane: bounds and sums are vectors that stay in registers, nothing is summed across a
// vector, and P^T leaves the registers as the operand that the second product takes. P is cut off and not rounded to
// bfloat16, for what O is divided by is the sum of the same numbers, from the same tiles: a row that sees one key
// gives its value, and the average loss cancels.
//
// Tiles and vectors take turns, 32 queries by 128 keys: products of two by two tiles, weights, products. (On AMX,
// alternating them chunk by chunk, so that the processor does both at once, measured 11% slower. While tiles multiply,
// products of vectors run on one port of two, and sums that stay in tile registers leave no room for products of two by
// two.)
#pragma once

#include "attention_forward.h"
#include "products_float.h"
#include "weights_bf16.h"

namespace fastbert {
namespace {

template <class Tiles>
class Bf16Forward {
 public:
  static constexpr int group_rows = kStrip;
  static constexpr std::int64_t most_rows = 768;  // 192 spent a third of the time on packing

  static std::size_t scratch_bytes(std::int64_t head_dim, std::int64_t rows, std::int64_t seq_k) {
    Scratch measure(nullptr);
    Bf16Forward(head_dim, rows, seq_k, measure);
    return measure.used();
  }

  static void run(const ForwardPiece& piece, void* memory, const PhiloxStreamKernels& philox) {
    Scratch scratch(memory);
    const std::int64_t rows = piece.heads * round_up(piece.queries, kStrip);
    Bf16Forward forward(piece.params->head_dim, rows, piece.sequence.seq_k, scratch);
    forward.run(piece);
    forward.repeat_unsafe(piece, philox);
  }

 private:
  using Careful = Forward<FloatProducts<Vector>>;
  static constexpr int kBlockChunks = 4;                                  // scores that stay in the first-level cache
  static constexpr int kSumRows = Tiles::sums_weights ? kTileHeight : 1;  // of cut_sums; all are alike
  static constexpr std::int64_t kSegmentNumbers = 1 << 17;                // of keys packed at a time: 256 KB
  static constexpr std::int64_t kCarefulRows = 192;
  static constexpr float kHeadroom = 60.0f;                    // weights may be 2^60,
  static constexpr float kLeast = 0x1p-80f, kMost = 0x1p120f;  // and their sum anything in between

  Bf16Forward(std::int64_t head_dim, std::int64_t rows, std::int64_t seq_k, Scratch& scratch)
      : dim(static_cast<int>(head_dim)),
        tiles(static_cast<int>(ceil_divide(head_dim, 16))),
        steps(static_cast<int>(ceil_divide(head_dim, kTileDepth))),
        segment_keys(lesser(round_up(seq_k, kChunk), kSegmentNumbers / (steps * kTileDepth))) {
    const std::int64_t strips = rows / kStrip;
    scores = scratch.floats(kBlockChunks * 2 * kChunk * kStrip);
    weights = scratch.bytes(kBlockChunks * 2 * kTileBytes);
    if constexpr (Tiles::sums_weights) {
      whole_weights = scratch.bytes(kBlockChunks * 2 * kTileBytes);
      ones = scratch.halves(kTileBytes / 2);
    }
    bytes = scratch.bytes(kBlockChunks * kChunk * kStrip);
    keys = scratch.halves(segment_keys * steps * kTileDepth);
    values = scratch.halves(segment_keys * tiles * 16);
    states = scratch.bytes(segment_keys / kChunk);
    queries = scratch.bytes(strips * steps * kTileBytes);
    lengths = scratch.floats(strips * kStrip);
    bounds = scratch.floats(strips * kStrip);
    sums = scratch.floats(strips * kStrip);
    cut_sums = scratch.floats(strips * kSumRows * kStrip);
    out = scratch.floats(strips * tiles * kTileBytes / 4);
    begun = scratch.bytes(strips);
    unsafe = scratch.bytes(strips);
    careful = scratch.bytes(static_cast<std::int64_t>(Careful::scratch_bytes(head_dim, kCarefulRows, seq_k)));
  }

  // Strip number `index` of a piece; those of a head follow each other.
  struct StripOfPiece {
    std::int64_t head;
    Range queries;

    StripOfPiece(const ForwardPiece& piece, std::int64_t index) {
      const std::int64_t each = ceil_divide(piece.queries, kStrip), first = index % each * kStrip;
      head = piece.first_head + index / each;
      queries = {piece.first_query + first, piece.first_query + lesser(first + kStrip, piece.queries)};
    }
  };
  static std::int64_t strips_of(const ForwardPiece& piece) { return piece.heads * ceil_divide(piece.queries, kStrip); }

  void run(const ForwardPiece& piece) {
    [[maybe_unused]] const typename Tiles::Session session{};
    const AttentionForwardParams& params = *piece.params;
    const Sequence& sequence = piece.sequence;
    const Band band = band_of(params, sequence);
    const Range seen = band.keys(piece.first_query, piece.first_query + piece.queries);
    if constexpr (Tiles::sums_weights) {
      for (int i = 0; i < kTileBytes / 2; ++i) ones[i] = 0x3F80;
    }
    for (std::int64_t strip = 0; strip < strips_of(piece); ++strip) load_queries(piece, strip);

    for (std::int64_t first = seen.begin / kChunk * kChunk; first < seen.end; first += segment_keys) {
      const std::int64_t past = lesser(first + segment_keys, seen.end);
      load_keys(piece, seen, first, past);
      for (std::int64_t strip = 0; strip < strips_of(piece); ++strip) raise_bound(params.scale, strip);
      attend(piece, band, {first, past});
    }
    for (std::int64_t strip = 0; strip < strips_of(piece); ++strip) finish(piece, band, strip);
  }

  void load_queries(const ForwardPiece& piece, std::int64_t index) {
    const AttentionForwardParams& params = *piece.params;
    const StripOfPiece strip(piece, index);
    const Rows rows{
        params.dtype,
        at(params.dtype, params.q, offset_of(params.q_strides, piece.sequence, piece.sequence.first_q, 0, strip.head)),
        params.q_strides.row,
        dim,
        {0, piece.sequence.seq_q},
        nullptr};
    const int count = static_cast<int>(strip.queries.end - strip.queries.begin);
    if (index + 1 < strips_of(piece)) prefetch_rows(rows, strip.queries.end, kStrip);
    const Vector::Float squares =
        pack_strip(rows, strip.queries.begin, count, steps, queries + index * steps * kTileBytes);
    Vector::store(lengths + index * kStrip, _mm512_sqrt_ps(squares));
    Vector::store(bounds + index * kStrip, Vector::broadcast(kMinusInfinity));
    Vector::store(sums + index * kStrip, Vector::zero());
    Vector::store(cut_sums + index * kSumRows * kStrip, Vector::zero());
    begun[index] = 0;
  }

  // Keys [first, past), the first of them in row 0 of the operands.
  void load_keys(const ForwardPiece& piece, Range seen, std::int64_t first, std::int64_t past) {
    const AttentionForwardParams& params = *piece.params;
    const std::int64_t kv_head = piece.first_head / (params.heads / params.kv_heads);
    const std::uint8_t* living = living_keys(params, piece.sequence);
    const Rows k = key_rows(params, params.k, params.k_strides, piece.sequence, kv_head, seen, living);
    const Rows v = key_rows(params, params.v, params.v_strides, piece.sequence, kv_head, seen, living);
    longest = 0.0f;
    prefetch_rows(v, first, kChunk);
    for (std::int64_t chunk = first; chunk < past; chunk += kChunk) {
      const int count = static_cast<int>(lesser(kChunk, past - chunk));
      const std::int64_t row = chunk - first;
      prefetch_rows(k, chunk + kChunk, kChunk);
      prefetch_rows(v, chunk + kChunk, kChunk);
      longest = largest_or_nan(longest, pack_chunk(k, chunk, count, steps, keys + row * steps * kTileDepth));
      pack_left_transposed<Vector>(v, chunk, count, tiles, values + row * tiles * 16, kTileDepth);
      states[row / kChunk] = state_of(living, chunk, count);
    }
    longest = __builtin_sqrtf(longest);
  }

  // For the keys just loaded; what was summed under a lower bound is brought to the new one.
  void raise_bound(float scale, std::int64_t strip) {
    const Vector::Float length = Vector::load(lengths + strip * kStrip);
    const float factor = __builtin_fabsf(scale) * kLog2E * longest;
    const Vector::Float before = Vector::load(bounds + strip * kStrip);
    const Vector::Float bound = length * Vector::broadcast(factor) - Vector::broadcast(kHeadroom);
    if (begun[strip] == 0) return Vector::store(bounds + strip * kStrip, bound);
    const Vector::Float now = Vector::maximum(before, bound);  // NaN, should the new one be
    const Vector::Float correction = exp2<Vector>(before - now);
    Vector::store(bounds + strip * kStrip, now);
    const auto correct = [&](float* x) { Vector::store(x, Vector::load(x) * correction); };
    correct(sums + strip * kStrip);
    for (int row = 0; row < kSumRows; ++row) correct(cut_sums + (strip * kSumRows + row) * kStrip);
    for (int row = 0; row < tiles * 16; ++row) correct(out + (strip * tiles * 16 + row) * kStrip);
  }

  // Two strips, or a last one alone, of one head, against the chunks of a block that they see.
  struct Pair {
    std::int64_t first, head;
    int strips;
    Range queries[2];
    std::int64_t chunks[kBlockChunks];
    int count;
  };

  // All strips against a segment of keys.
  void attend(const ForwardPiece& piece, const Band& band, Range segment) {
    const std::int64_t each = ceil_divide(piece.queries, kStrip);
    for (std::int64_t head = 0; head < piece.heads; ++head) {
      for (std::int64_t strip = head * each; strip < (head + 1) * each; strip += 2) {
        Pair pair;
        pair.first = strip;
        pair.strips = static_cast<int>(lesser(2, (head + 1) * each - strip));
        for (int i = 0; i < pair.strips; ++i) pair.queries[i] = StripOfPiece(piece, strip + i).queries;
        pair.head = piece.first_head + head;
        attend(piece, band, pair, segment);
      }
    }
  }

  void attend(const ForwardPiece& piece, const Band& band, Pair& pair, Range segment) {
    const Range visible = band.keys(pair.queries[0].begin, pair.queries[pair.strips - 1].end);
    const std::int64_t begin = greater(visible.begin - segment.begin, 0) / kChunk;
    const std::int64_t end = ceil_divide(lesser(visible.end, segment.end) - segment.begin, kChunk);
    for (std::int64_t chunk = begin; chunk < end;) {
      for (pair.count = 0; chunk < end && pair.count < kBlockChunks; ++chunk) {
        if (states[chunk] != kDead) pair.chunks[pair.count++] = chunk;
      }
      if (pair.count == 0) return;
      multiply_keys(pair);
      weigh(piece, band, pair, segment.begin);
      add_values(pair, piece.params->dropout_threshold > 0);
    }
  }

  void multiply_keys(const Pair& pair) {
    const std::ptrdiff_t strip_bytes = steps * kTileBytes;
    const std::uint8_t* right = queries + pair.first * strip_bytes;
    for (int i = 0; i < pair.count; ++i) {
      const std::uint16_t* left = keys + pair.chunks[i] * steps * kChunkNumbers;
      Tiles::multiply(
          {true, pair.strips == 2, false, scores + i * 2 * kChunk * kStrip, kStrip, kChunk * kStrip, strip_bytes},
          steps, [&](int step) { return TileOperands{left + step * kChunkNumbers, right + step * kTileBytes}; });
    }
  }

  // Scores of chunk i and strip j are number 2 i + j of scores and of weights.
  void weigh(const ForwardPiece& piece, const Band& band, const Pair& pair, std::int64_t segment) {
    const AttentionForwardParams& params = *piece.params;
    const bool dropped = params.dropout_threshold > 0;
    for (int j = 0; j < pair.strips; ++j) {
      const std::int64_t row = (pair.first + j) * kStrip;
      if (dropped) draw(params, piece.sequence, pair, j, segment);
      for (int i = 0; i < pair.count; ++i) {
        const std::int64_t key = segment + pair.chunks[i] * kChunk;
        const bool masked = states[pair.chunks[i]] != kAlive || !band.covers(pair.queries[j], {key, key + kChunk});
        const ChunkMask mask{band, pair.queries[j].begin, key, living_keys(params, piece.sequence)};
        const auto weigh_chunk =
            dropped ? (masked ? weigh_forward<Tiles, true, true> : weigh_forward<Tiles, false, true>)
                    : (masked ? weigh_forward<Tiles, true, false> : weigh_forward<Tiles, false, false>);
        const int place = 2 * i + j;
        const WeightsOut to{sums + row, Tiles::sums_weights ? nullptr : cut_sums + row, weights + place * kTileBytes,
                            Tiles::sums_weights ? whole_weights + place * kTileBytes : nullptr};
        weigh_chunk(scores + place * kChunk * kStrip, params.scale * kLog2E, bounds + row, mask,
                    {bytes + i * kChunk * kStrip, params.dropout_threshold}, to);
      }
    }
  }

  // Chunks that follow each other at once.
  void draw(const AttentionParams& params, const Sequence& sequence, const Pair& pair, int strip,
            std::int64_t segment) {
    for (int i = 0, past = 1; i < pair.count; i = past++) {
      while (past < pair.count && pair.chunks[past] == pair.chunks[past - 1] + 1) ++past;
      fill_pairs(params, sequence, pair.head, pair.queries[strip].begin, segment + pair.chunks[i] * kChunk, past - i,
                 bytes + i * kChunk * kStrip);
    }
  }

  // O^T += V^T P^T, and the sums of P where they have not been taken.
  void add_values(const Pair& pair, bool dropped) {
    const bool add = begun[pair.first] != 0, wide = pair.strips == 2;
    const std::ptrdiff_t strip = tiles * kTileBytes / 4;
    for (int tile = 0; tile < tiles; tile += 2) {
      float* sum = out + pair.first * strip + tile * kTileBytes / 4;
      const std::uint16_t* left = values + tile * kTileBytes / 2;
      Tiles::multiply({tile + 1 < tiles, wide, add, sum, kStrip, strip, kTileBytes}, pair.count, [&](int i) {
        return TileOperands{left + pair.chunks[i] * tiles * (kTileBytes / 2), weights + 2 * i * kTileBytes};
      });
    }
    if constexpr (Tiles::sums_weights) {
      const std::uint8_t* right = dropped ? whole_weights : weights;
      float* sum = cut_sums + pair.first * kSumRows * kStrip;
      Tiles::multiply({false, wide, add, sum, kStrip, kSumRows * kStrip, kTileBytes}, pair.count,
                      [&](int i) { return TileOperands{ones, right + 2 * i * kTileBytes}; });
    }
    begun[pair.first] = begun[pair.first + pair.strips - 1] = 1;
  }

  void finish(const ForwardPiece& piece, const Band& band, std::int64_t index) {
    const AttentionForwardParams& params = *piece.params;
    const StripOfPiece strip(piece, index);
    const int count = static_cast<int>(strip.queries.end - strip.queries.begin);
    const __mmask16 rows = first_lanes(count);
    const Vector::Float sum = Vector::load(sums + index * kStrip);
    const __mmask16 safe = begun[index] == 0
                               ? 0
                               : static_cast<__mmask16>(_mm512_cmp_ps_mask(sum, Vector::broadcast(kLeast), _CMP_GE_OQ) &
                                                        _mm512_cmp_ps_mask(sum, Vector::broadcast(kMost), _CMP_LE_OQ));
    __mmask16 blind = 0;
    for (int row = 0; row < count; ++row) {
      if ((safe >> row & 1) == 0 && !sees_any(params, piece.sequence, band.keys(strip.queries.begin + row))) {
        blind = static_cast<__mmask16>(blind | 1 << row);
      }
    }
    unsafe[index] = (rows & ~(safe | blind)) != 0;
    if (unsafe[index]) return;

    float* lse = params.lse + lse_index(params, piece.sequence, strip.head, strip.queries.begin);
    const Vector::Float ln2 = Vector::broadcast(kLn2);
    const Vector::Float logarithm = Vector::multiply_add(Vector::load(bounds + index * kStrip), ln2, natural_log(sum));
    _mm512_mask_storeu_ps(lse, rows, Vector::select(safe, logarithm, Vector::broadcast(kMinusInfinity)));

    const Vector::Float survivors = Vector::broadcast(survivor_scale(params.dropout_threshold));
    const Vector::Float factor = Vector::or_zero(safe, survivors / Vector::load(cut_sums + index * kSumRows * kStrip));
    const std::int64_t row_stride = params.heads * params.head_dim;
    const std::int64_t first =
        row_q(params, piece.sequence, strip.queries.begin) * row_stride + strip.head * params.head_dim;
    unsafe[index] = !unpack_strip(out + index * tiles * kTileBytes / 4, tiles, begun[index] != 0, factor, count, dim,
                                  at(params.dtype, static_cast<std::uint16_t*>(params.out), first), row_stride);
  }

  // Strips that are not certain, with the running maximum.
  void repeat_unsafe(const ForwardPiece& piece, const PhiloxStreamKernels& philox) {
    const std::int64_t each = ceil_divide(piece.queries, kStrip);
    for (std::int64_t index = 0; index < strips_of(piece);) {
      std::int64_t past = index;
      while (past < (index / each + 1) * each && past - index < kCarefulRows / kStrip && unsafe[past] != 0) ++past;
      if (past > index) {
        const Range first = StripOfPiece(piece, index).queries, last = StripOfPiece(piece, past - 1).queries;
        const ForwardPiece again{piece.params,
                                 piece.sequence,
                                 StripOfPiece(piece, index).head,
                                 first.begin,
                                 1,
                                 static_cast<int>(last.end - first.begin)};
        Careful::run(again, careful, philox);
      }
      index = past > index ? past : index + 1;
    }
  }

  int dim, tiles, steps;  // head_dim, in tiles of 16 and in steps of 32
  std::int64_t segment_keys;
  float longest = 0.0f;  // of the keys of the segment
  float *scores, *lengths, *bounds, *sums, *cut_sums, *out;
  std::uint16_t *ones = nullptr, *keys, *values;
  std::uint8_t *weights, *whole_weights = nullptr, *bytes, *states, *queries, *begun, *unsafe, *careful;
};

}  // namespace
}  // namespace fastbert
