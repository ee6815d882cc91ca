// AVX-512 that only moves lanes: blends, shuffles, permutations, pieces of vectors.
#pragma once

#include "lanes.h"

namespace fastbert_emulated {
namespace {

using std::uint16_t;
using std::uint32_t;
using std::uint64_t;

// The last argument where the bit is set.
inline Float512 mm512_mask_blend_ps(__mmask16 k, Float512 no, Float512 yes) { return select<float>(k, yes, no); }
inline Int512 mm512_mask_blend_epi32(__mmask16 k, Int512 no, Int512 yes) { return select<uint32_t>(k, yes, no); }
inline Int512 mm512_mask_blend_epi16(__mmask32 k, Int512 no, Int512 yes) { return select<uint16_t>(k, yes, no); }
inline Float512 mm512_mask_mov_ps(Float512 no, __mmask16 k, Float512 yes) { return select<float>(k, yes, no); }
inline Float512 mm512_maskz_mov_ps(__mmask16 k, Float512 yes) { return select<float>(k, yes, zero<Float512>()); }
inline Int512 mm512_maskz_mov_epi32(__mmask16 k, Int512 yes) { return select<uint32_t>(k, yes, zero<Int512>()); }
inline Int512 mm512_maskz_mov_epi16(__mmask32 k, Int512 yes) { return select<uint16_t>(k, yes, zero<Int512>()); }

// In every 128-bit piece: a, b, a, b of its low or its high half.
template <class T, class V>
inline V unpack(const V& a, const V& b, bool high) {
  constexpr int piece = 16 / sizeof(T), half = piece / 2;
  const Lanes<T, V> x(a), y(b);
  Lanes<T, V> result;
  for (int i = 0; i < x.count; ++i) {
    const int from = i / piece * piece + (high ? half : 0) + i % piece / 2;
    result[i] = i % 2 == 0 ? x[from] : y[from];
  }
  return result.vector();
}
inline Float512 mm512_unpacklo_ps(Float512 a, Float512 b) { return unpack<float>(a, b, false); }
inline Float512 mm512_unpackhi_ps(Float512 a, Float512 b) { return unpack<float>(a, b, true); }
inline Int512 mm512_unpacklo_epi16(Int512 a, Int512 b) { return unpack<uint16_t>(a, b, false); }
inline Int512 mm512_unpackhi_epi16(Int512 a, Int512 b) { return unpack<uint16_t>(a, b, true); }
inline Int512 mm512_unpacklo_epi32(Int512 a, Int512 b) { return unpack<uint32_t>(a, b, false); }
inline Int512 mm512_unpackhi_epi32(Int512 a, Int512 b) { return unpack<uint32_t>(a, b, true); }
inline Int512 mm512_unpacklo_epi64(Int512 a, Int512 b) { return unpack<uint64_t>(a, b, false); }
inline Int512 mm512_unpackhi_epi64(Int512 a, Int512 b) { return unpack<uint64_t>(a, b, true); }

// Two bits of imm for each of four places: which of four it takes, places 0 and 1 from a, 2 and 3 from b. The places
// are lanes of every 128-bit piece, or the pieces themselves.
inline Float512 mm512_shuffle_ps(Float512 a, Float512 b, int imm) {
  Float512 result;
  for (int i = 0; i < 16; ++i) result.lane[i] = (i % 4 < 2 ? a : b).lane[i / 4 * 4 + (imm >> i % 4 * 2 & 3)];
  return result;
}
inline Int512 mm512_shuffle_epi32(Int512 a, int imm) {
  return bits_as<Int512>(mm512_shuffle_ps(bits_as<Float512>(a), bits_as<Float512>(a), imm));
}
inline Int512 mm512_mask_shuffle_epi32(Int512 otherwise, __mmask16 k, Int512 a, int imm) {
  return select<uint32_t>(k, mm512_shuffle_epi32(a, imm), otherwise);
}
inline Float512 mm512_shuffle_f32x4(Float512 a, Float512 b, int imm) {
  Float512 result;
  for (int i = 0; i < 16; ++i) result.lane[i] = (i < 8 ? a : b).lane[(imm >> i / 4 * 2 & 3) * 4 + i % 4];
  return result;
}
inline Int512 mm512_shuffle_i32x4(Int512 a, Int512 b, int imm) {
  return bits_as<Int512>(mm512_shuffle_f32x4(bits_as<Float512>(a), bits_as<Float512>(b), imm));
}

// result[i] = a[index[i]]; higher bits of the index are ignored.
template <class T, class V, class Index>
inline V permute(const Index& index, const V& a) {
  const Lanes<T, Index> from(index);
  const Lanes<T, V> x(a);
  Lanes<T, V> result;
  for (int i = 0; i < x.count; ++i) result[i] = x[static_cast<int>(from[i] & (x.count - 1u))];
  return result.vector();
}
inline Float512 mm512_permutexvar_ps(Int512 index, Float512 a) { return permute<uint32_t>(index, a); }
inline Int512 mm512_permutexvar_epi16(Int512 index, Int512 a) { return permute<uint16_t>(index, a); }
inline Int512 mm512_permutexvar_epi32(Int512 index, Int512 a) { return permute<uint32_t>(index, a); }
inline Int512 mm512_permutexvar_epi64(Int512 index, Int512 a) { return permute<uint64_t>(index, a); }
inline __m256i mm256_permutexvar_epi16(__m256i index, __m256i a) { return permute<uint16_t>(index, a); }
inline __m256i mm256_permutexvar_epi32(__m256i index, __m256i a) { return permute<uint32_t>(index, a); }

// The same from a and b one after the other: the bit above those of a's lanes chooses b.
template <class T, class V, class Index>
inline V permute(const V& a, const Index& index, const V& b) {
  const Lanes<T, Index> from(index);
  const Lanes<T, V> x(a), y(b);
  Lanes<T, V> result;
  for (int i = 0; i < x.count; ++i) {
    const int lane = static_cast<int>(from[i] & (x.count - 1u));
    result[i] = (from[i] & static_cast<T>(x.count)) != 0 ? y[lane] : x[lane];
  }
  return result.vector();
}
inline Float512 mm512_permutex2var_ps(Float512 a, Int512 index, Float512 b) { return permute<uint32_t>(a, index, b); }
inline Int512 mm512_permutex2var_epi16(Int512 a, Int512 index, Int512 b) { return permute<uint16_t>(a, index, b); }
inline Int512 mm512_permutex2var_epi32(Int512 a, Int512 index, Int512 b) { return permute<uint32_t>(a, index, b); }
inline Int512 mm512_permutex2var_epi64(Int512 a, Int512 index, Int512 b) { return permute<uint64_t>(a, index, b); }
inline __m256i mm256_permutex2var_epi16(__m256i a, __m256i index, __m256i b) { return permute<uint16_t>(a, index, b); }
inline __m256i mm256_permutex2var_epi32(__m256i a, __m256i index, __m256i b) { return permute<uint32_t>(a, index, b); }

// Pieces of a vector; a higher number is a higher piece.
template <class Part, class V>
inline Part piece(const V& a, int number) {
  constexpr int count = static_cast<int>(sizeof(V) / sizeof(Part));
  Part parts[sizeof(V) / sizeof(Part)];
  __builtin_memcpy(parts, &a, sizeof a);
  return parts[number & (count - 1)];
}
template <class Part, class V>
inline V with_piece(V a, const Part& part, int number) {
  constexpr int count = static_cast<int>(sizeof(V) / sizeof(Part));
  __builtin_memcpy(reinterpret_cast<char*>(&a) + sizeof(Part) * static_cast<unsigned>(number & (count - 1)), &part,
                   sizeof part);
  return a;
}
inline __m256i mm512_castsi512_si256(Int512 a) { return piece<__m256i>(a, 0); }
inline __m128i mm512_castsi512_si128(Int512 a) { return piece<__m128i>(a, 0); }
inline __m256 mm512_castps512_ps256(Float512 a) { return piece<__m256>(a, 0); }
inline __m256i mm512_extracti64x4_epi64(Int512 a, int number) { return piece<__m256i>(a, number); }
inline __m128i mm512_extracti32x4_epi32(Int512 a, int number) { return piece<__m128i>(a, number); }
inline Int512 mm512_inserti64x4(Int512 a, __m256i part, int number) { return with_piece(a, part, number); }
inline Int512 mm512_inserti32x4(Int512 a, __m128i part, int number) { return with_piece(a, part, number); }
inline Int512 mm512_zextsi256_si512(__m256i a) { return with_piece(zero<Int512>(), a, 0); }
// The upper half is undefined: a pattern that is neither zero nor a likely value brings to light who relies on it.
inline Int512 mm512_castsi256_si512(__m256i a) {
  return with_piece(broadcast<uint64_t, Int512>(0xFFBADBADFFBADBADu), a, 0);
}

}  // namespace
}  // namespace fastbert_emulated
