// Tiles of scores to weights, transposed: a row is a key, a lane one of 16 queries.
#pragma once

#include "dropout.h"
#include "exp2.h"
#include "mask.h"
#include "operands_bf16.h"

namespace fastbert {
namespace {

constexpr int kStrip = 16;                          // queries, the columns of a tile
constexpr int kChunk = 32;                          // keys, the depth of a product
constexpr int kChunkNumbers = kChunk * kTileDepth;  // of a chunk's A operand, for each step of head_dim
constexpr float kLn2 = 0.6931471805599453f;

// Which queries of a strip see a key of a chunk.
struct ChunkMask {
  const Band& band;
  std::int64_t first_query, first_key;
  const std::uint8_t* living;  // of the keys from `first_living` on; null = all are
  std::int64_t first_living = 0;

  __mmask16 lanes(int row) const {
    const std::int64_t key = first_key + row;
    if (key >= band.seq_k || (living != nullptr && living[key - first_living] == 0)) return 0;
    const int begin = static_cast<int>(clamp(key - band.past + 1 - first_query, 0, kStrip));
    const int end = static_cast<int>(clamp(key - band.first + 1 - first_query, 0, kStrip));
    return static_cast<__mmask16>(((1u << end) - 1) & ~((1u << begin) - 1));
  }
};

inline __mmask16 first_lanes(int count) { return static_cast<__mmask16>((1u << count) - 1); }

// 2^x to 3e-6, which bfloat16 and a logarithm of the sum need: x is floor(x) + f, 2^f a polynomial of degree 4 fitted
// to the least largest relative error on [0, 1]. x must be finite, or the result is NaN, and not exceed 127.
template <class Tiles>
inline __attribute__((always_inline)) __m512 short_exp2(__m512 x) {
  const __m512 f = Tiles::above_floor(x);
  __m512 g = _mm512_set1_ps(1.353417e-2f);
  g = _mm512_fmadd_ps(g, f, _mm512_set1_ps(5.201146e-2f));
  g = _mm512_fmadd_ps(g, f, _mm512_set1_ps(2.4144275e-1f));
  g = _mm512_fmadd_ps(g, f, _mm512_set1_ps(6.9300383e-1f));
  g = _mm512_fmadd_ps(g, f, _mm512_set1_ps(1.0000026f));
  return _mm512_scalef_ps(g, x);
}

// Positive normal numbers. x = 2^n m with m in [sqrt(1/2), sqrt(2)); ln m = 2 artanh((m - 1) / (m + 1)).
inline __m512 natural_log(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x), root_half = _mm512_set1_epi32(0x3F3504F3);
  const __m512i above = _mm512_srai_epi32(_mm512_sub_epi32(bits, root_half), 23);
  const __m512 m = _mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(above, 23)));
  const __m512 one = _mm512_set1_ps(1.0f), t = (m - one) / (m + one), square = t * t;
  __m512 series = _mm512_set1_ps(2.0f / 9);
  series = _mm512_fmadd_ps(series, square, _mm512_set1_ps(2.0f / 7));
  series = _mm512_fmadd_ps(series, square, _mm512_set1_ps(2.0f / 5));
  series = _mm512_fmadd_ps(series, square, _mm512_set1_ps(2.0f / 3));
  series = _mm512_fmadd_ps(series, square, _mm512_set1_ps(2.0f));
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(above), _mm512_set1_ps(kLn2), series * t);
}

// Two vectors, cut off to bfloat16, as pairs of halves.
inline __m512i cut_pair(__m512 lower, __m512 upper) {
  return _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(_mm512_castps_si512(lower), 16),
                                 _mm512_castps_si512(upper));
}

// What becomes of the weights of a chunk.
struct WeightsOut {
  float* sums;          // += each lane's weights
  float* cut_sums;      // += the same cut off to bfloat16, unless a product does it
  std::uint8_t* kept;   // B tile of what was kept of them
  std::uint8_t* whole;  // B tile of all of them, if Dropped and a product sums them
};

// One chunk of the forward.
template <class Tiles, bool Masked, bool Dropped>
void weigh_forward(const float* scores, float factor, const float* bounds, const ChunkMask& mask,
                   const KeptBytes& survivors, const WeightsOut& to) {
  const __m512 c = _mm512_set1_ps(factor), bound = _mm512_loadu_ps(bounds);
  constexpr bool kSums = !Tiles::sums_weights;
  const auto ones = (__m512bh)_mm512_set1_epi32(0x3F803F80);
  __m512 even = _mm512_loadu_ps(to.sums), odd = _mm512_setzero_ps(), cut = _mm512_setzero_ps();
#pragma GCC unroll 4
  for (int pair = 0; pair < kChunk / 2; ++pair) {
    const float* upper = scores + 2 * pair * kStrip;
    __m512 first = short_exp2<Tiles>(_mm512_fmsub_ps(_mm512_loadu_ps(upper), c, bound));
    __m512 second = short_exp2<Tiles>(_mm512_fmsub_ps(_mm512_loadu_ps(upper + kStrip), c, bound));
    if constexpr (Masked) {
      first = _mm512_maskz_mov_ps(mask.lanes(2 * pair), first);
      second = _mm512_maskz_mov_ps(mask.lanes(2 * pair + 1), second);
    }
    even = even + first;
    odd = odd + second;
    const __m512i words = cut_pair(first, second);
    if constexpr (kSums) cut = _mm512_dpbf16_ps(cut, (__m512bh)words, ones);
    if constexpr (Dropped) {
      const __m256i drawn = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(survivors.row + pair * 2 * kStrip));
      const __mmask32 alive = _mm256_cmpge_epu8_mask(drawn, _mm256_set1_epi8(static_cast<char>(survivors.threshold)));
      if constexpr (!kSums) _mm512_storeu_si512(to.whole + pair * 64, words);
      _mm512_storeu_si512(to.kept + pair * 64, _mm512_maskz_mov_epi16(alive, words));
    } else {
      _mm512_storeu_si512(to.kept + pair * 64, words);
    }
  }
  _mm512_storeu_ps(to.sums, even + odd);
  if constexpr (kSums) _mm512_storeu_ps(to.cut_sums, _mm512_loadu_ps(to.cut_sums) + cut);
}

// Two vectors, rounded to bfloat16, as pairs of halves. Halfway cases go away from zero; a NaN whose lower half is not
// all ones, as none is that comes from bfloat16 or an operation, stays one.
inline __m512i round_pair(__m512 lower, __m512 upper) {
  const __m512i half = _mm512_set1_epi32(0x8000);
  return _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(lower), half), 16),
                                 _mm512_add_epi32(_mm512_castps_si512(upper), half));
}

// Of a pair of keys: who keeps the first and the second.
struct KeptPair {
  __mmask16 first, second;

  KeptPair(const KeptBytes& survivors, int pair) {
    const __m256i drawn = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(survivors.row + pair * 2 * kStrip));
    const __m256i least = _mm256_set1_epi16(static_cast<short>(survivors.threshold << 8));
    first = _mm256_cmpge_epu16_mask(_mm256_slli_epi16(drawn, 8), least);
    second = _mm256_cmpge_epu16_mask(drawn, least);
  }
};

struct WeightSums {
  __m512 weights, products;  // sum of P, sum of P dP
};

// One chunk and strip of the backward: scores to weights P, and s dP to zero where P was dropped.
template <class Tiles, bool Masked, bool Dropped>
void weigh_backward(float* scores, float* gradients, float scale, const float* lse, const ChunkMask& mask,
                    const KeptBytes& kept, WeightSums& sums) {
  const __m512 factor = _mm512_set1_ps(scale), log2e = _mm512_set1_ps(kLog2E);
  const __m512 offset = _mm512_min_ps(_mm512_loadu_ps(lse), _mm512_set1_ps(1e30f));  // finite, and weights still 0
  const __m512 survivors = _mm512_set1_ps(survivor_scale(kept.threshold));
  __m512 weights = sums.weights, products = sums.products;
  for (int pair = 0; pair < kChunk / 2; ++pair) {
    __mmask16 keeps[2] = {0, 0};
    if constexpr (Dropped) {
      const KeptPair both(kept, pair);
      keeps[0] = both.first;
      keeps[1] = both.second;
    }
    for (int i = 0; i < 2; ++i) {
      float *score = scores + (2 * pair + i) * kStrip, *gradient = gradients + (2 * pair + i) * kStrip;
      __m512 weight = short_exp2<Tiles>(_mm512_fmsub_ps(_mm512_loadu_ps(score), factor, offset) * log2e);
      __m512 dp = _mm512_loadu_ps(gradient);
      if constexpr (Masked) {
        const __mmask16 seen = mask.lanes(2 * pair + i);
        weight = _mm512_maskz_mov_ps(seen, weight);
        dp = _mm512_maskz_mov_ps(seen, dp);
      }
      if constexpr (Dropped) dp = _mm512_maskz_mov_ps(keeps[i], dp * survivors);
      weights = weights + weight;
      products = _mm512_fmadd_ps(weight, dp, products);
      _mm512_storeu_ps(score, weight);
      if constexpr (Masked || Dropped) _mm512_storeu_ps(gradient, dp);
    }
  }
  sums.weights = weights;
  sums.products = products;
}

// One chunk and two strips: dP to dS = P (dP - delta), and dS and what was kept of P to operands. The second strip's
// numbers lie kChunk * kStrip from the first one's, its random bytes `next_bytes`.
template <bool Dropped>
void differentiate_backward(const float* weights, const float* gradients, const __m512 (&deltas)[2],
                            const KeptBytes& kept, std::ptrdiff_t next_bytes, std::uint8_t* weight_rows,
                            std::uint8_t* ds_rows, std::uint8_t* ds_columns) {
  constexpr int kNext = kChunk * kStrip;
  for (int pair = 0; pair < kChunk / 2; ++pair) {
    __m512i words[2];
    __mmask16 keeps[2][2] = {};  // of key, of strip
    if constexpr (Dropped) {
      for (int j = 0; j < 2; ++j) {
        const KeptPair both({kept.row + j * next_bytes, kept.threshold}, pair);
        keeps[0][j] = both.first;
        keeps[1][j] = both.second;
      }
    }
    for (int i = 0; i < 2; ++i) {
      const int row = (2 * pair + i) * kStrip;
      __m512 p[2], ds[2];
      for (int j = 0; j < 2; ++j) {
        p[j] = _mm512_loadu_ps(weights + row + j * kNext);
        ds[j] = p[j] * (_mm512_loadu_ps(gradients + row + j * kNext) - deltas[j]);
        if constexpr (Dropped) p[j] = _mm512_maskz_mov_ps(keeps[i][j], p[j]);
      }
      words[i] = round_pair(ds[0], ds[1]);
      _mm512_storeu_si512(weight_rows + (2 * pair + i) * 64, round_pair(p[0], p[1]));
      _mm512_storeu_si512(ds_rows + (2 * pair + i) * 64, words[i]);
    }
    _mm512_storeu_si512(ds_columns + pair * 64,
                        _mm512_mask_blend_epi16(0xAAAAAAAA, words[0], _mm512_slli_epi32(words[1], 16)));
    _mm512_storeu_si512(ds_columns + kTileBytes + pair * 64,
                        _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(words[0], 16), words[1]));
  }
}

// The bytes of one strip and some chunks from `key` on: out[chunk][pair of keys][query][2].
inline void fill_pairs(const AttentionParams& params, const Sequence& sequence, std::int64_t head, std::int64_t query,
                       std::int64_t key, std::int64_t chunks, std::uint8_t* out) {
  const PhiloxStream stream{philox_key(params.seed), static_cast<std::uint32_t>(query / kTileRows),
                            static_cast<std::uint32_t>(sequence.index * params.heads + head), params.offset};
  philox_pairs_avx512(stream, static_cast<std::uint32_t>(key / kTileColumns), chunks, out);
}

// Of a chunk of keys: whether none, some or all are alive.
enum : std::uint8_t { kDead, kMixed, kAlive };

inline std::uint8_t state_of(const std::uint8_t* living, std::int64_t first, int count) {
  int alive = count;
  if (living != nullptr) {
    alive = 0;
    for (int row = 0; row < count; ++row) alive += living[first + row] != 0;
  }
  return alive == 0 ? kDead : alive == kChunk ? kAlive : kMixed;
}

inline bool sees_any(const AttentionParams& params, const Sequence& sequence, Range keys) {
  const std::uint8_t* living = living_keys(params, sequence);
  if (living == nullptr) return !keys.empty();
  for (std::int64_t key = keys.begin; key < keys.end; ++key) {
    if (living[key] != 0) return true;
  }
  return false;
}

// Of two numbers that are not negative; NaN where one is.
inline float largest_or_nan(float a, float b) { return a != a || a > b ? a : b; }

// One number of each row: the sum across it.
inline __m512 sums_across(const __m512 (&rows)[16]) {
  __m512 pairs[8], quads[4], halves[2];
  for (int i = 0; i < 8; ++i) {
    pairs[i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]) + _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    quads[i] = _mm512_shuffle_ps(pairs[2 * i], pairs[2 * i + 1], 0x44) +
               _mm512_shuffle_ps(pairs[2 * i], pairs[2 * i + 1], 0xEE);
  }
  for (int i = 0; i < 2; ++i) {
    halves[i] = _mm512_shuffle_f32x4(quads[2 * i], quads[2 * i + 1], 0x88) +
                _mm512_shuffle_f32x4(quads[2 * i], quads[2 * i + 1], 0xDD);
  }
  return _mm512_shuffle_f32x4(halves[0], halves[1], 0x88) + _mm512_shuffle_f32x4(halves[0], halves[1], 0xDD);
}

inline __m512 add_squares(__m512 sum, __m512i words) {
  const auto numbers = (__m512bh)words;
  return _mm512_dpbf16_ps(sum, numbers, numbers);
}

inline void prefetch_rows(const Rows& rows, std::int64_t first, std::int64_t count) {
  for (std::int64_t row = greater(first, rows.live.begin); row < lesser(first + count, rows.live.end); ++row) {
    prefetch_row<DType::bfloat16>(rows, row);
  }
}

// A operand of `count` keys from `first` on, as pack_left gives it; the largest sum of squares of a row, NaN where
// there is a NaN.
inline float pack_chunk(const Rows& rows, std::int64_t first, int count, int steps, std::uint16_t* out) {
  float largest = 0.0f;
  for (int tile = 0; tile < kChunk; tile += 16) {
    __m512 squares[16];
    for (int lane = 0; lane < 16; ++lane) squares[lane] = _mm512_setzero_ps();
    for (int step = 0; step < steps; ++step) {
      __m512i words[16];
      load_block<Vector>(rows, first + tile, static_cast<int>(clamp(count - tile, 0, 16)), step * kTileDepth, words);
      for (int lane = 0; lane < 16; ++lane) {
        squares[lane] = add_squares(squares[lane], words[lane]);
        _mm512_storeu_si512(out + (step * kChunk + tile + lane) * kTileDepth, words[lane]);
      }
    }
    // As integers numbers that are not negative keep their order, and NaN is the largest.
    const std::uint32_t bits = _mm512_reduce_max_epu32(_mm512_castps_si512(sums_across(squares)));
    float found;
    std::memcpy(&found, &bits, sizeof found);
    largest = largest_or_nan(largest, found);
  }
  return largest;
}

// `count` queries from `first` on as the columns of B tiles; the sums of their squares.
inline __m512 pack_strip(const Rows& rows, std::int64_t first, int count, int steps, std::uint8_t* out) {
  __m512 squares = _mm512_setzero_ps();
  for (int step = 0; step < steps; ++step) {
    __m512i words[16];
    load_block<Vector>(rows, first, count, step * kTileDepth, words);
    __m512 pairs[16];
    for (int lane = 0; lane < 16; ++lane) pairs[lane] = _mm512_castsi512_ps(words[lane]);
    Vector::transpose(pairs);
    for (int lane = 0; lane < 16; ++lane) {
      squares = add_squares(squares, _mm512_castps_si512(pairs[lane]));
      Vector::store(reinterpret_cast<float*>(out + step * kTileBytes + lane * 64), pairs[lane]);
    }
  }
  return squares;
}

// Tiles of O^T, 16 columns of head_dim by 16 queries each, times a factor for each query, to rows of bfloat16; zeros
// where nothing was `summed`. Whether all numbers are finite.
inline bool unpack_strip(const float* in, int tiles, bool summed, __m512 factor, int count, int dim, std::uint16_t* out,
                         std::int64_t row_stride) {
  alignas(64) std::uint16_t order[32];  // of two vectors side by side: a lane of each in turn
  for (int lane = 0; lane < 32; ++lane) order[lane] = static_cast<std::uint16_t>(lane / 2 + lane % 2 * 16);
  const __m512i interleaved = _mm512_load_si512(order);
  __m512 poison = _mm512_setzero_ps();
  for (int column = 0; column < dim; column += kTileDepth) {
    __m512 words[16];
    for (int pair = 0; pair < 16; ++pair) {
      const int row = column + 2 * pair;
      __m512 numbers[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
      if (summed && row < tiles * 16) {
        for (int i = 0; i < 2; ++i) {
          numbers[i] = Vector::load(in + (row + i) * kStrip) * factor;
          poison = _mm512_fmadd_ps(numbers[i], _mm512_setzero_ps(), poison);  // NaN where not finite
        }
      }
      const auto halves = (__m512i)_mm512_cvtne2ps_pbh(numbers[1], numbers[0]);
      words[pair] = _mm512_castsi512_ps(_mm512_permutexvar_epi16(interleaved, halves));
    }
    Vector::transpose(words);
    const int columns = static_cast<int>(lesser(kTileDepth, dim - column));
    const auto present = static_cast<__mmask32>((std::uint64_t{1} << columns) - 1);
    for (int lane = 0; lane < count; ++lane) {
      _mm512_mask_storeu_epi16(out + lane * row_stride + column, present, _mm512_castps_si512(words[lane]));
    }
  }
  return _mm512_cmp_ps_mask(poison, poison, _CMP_UNORD_Q) == 0;
}

}  // namespace
}  // namespace fastbert
