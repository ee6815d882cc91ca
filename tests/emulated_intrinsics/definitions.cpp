// The emulation against its definitions, on cases small enough to work out by hand; runs wherever there is AVX2.
//
//   definitions FAMILY               0 where all of the family's expectations hold; else says which does not
//   definitions misuse CASE          ends as the wrong use CASE does
//   definitions product M K N        reads A (M, 2K) and B (K, N, 2) in bfloat16 and C (M, N) in float32 from standard
//                                    input and writes C + A B as the tiles compute it; K counts pairs
#include <immintrin.h>
//
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace {

int failures = 0;

void expect(bool holds, const char* what, int line) {
  if (holds) return;
  std::printf("line %d: %s\n", line, what);
  ++failures;
}
#define EXPECT(condition) expect((condition), #condition, __LINE__)

constexpr float kInfinity = std::numeric_limits<float>::infinity();
const float kNan = std::numeric_limits<float>::quiet_NaN();

template <class T>
struct Row {
  std::vector<T> lanes;
  T operator[](int index) const { return lanes[static_cast<std::size_t>(index)]; }
  bool operator==(const std::vector<T>& other) const { return lanes == other; }
};

template <class T, class V>
Row<T> lanes_of(const V& vector) {
  Row<T> row{std::vector<T>(sizeof vector / sizeof(T))};
  std::memcpy(row.lanes.data(), &vector, sizeof vector);
  return row;
}

// Lane i: first + i.
template <class T, class V>
V counting(int first) {
  T lanes[sizeof(V) / sizeof(T)];
  for (std::size_t i = 0; i < sizeof(V) / sizeof(T); ++i) lanes[i] = static_cast<T>(first + static_cast<int>(i));
  V vector;
  std::memcpy(&vector, lanes, sizeof vector);
  return vector;
}

__m512 floats(const std::vector<float>& first) {  // the rest is zero
  float lanes[16] = {};
  std::memcpy(lanes, first.data(), first.size() * sizeof(float));
  return _mm512_loadu_ps(lanes);
}

template <class T, class V>
V words(const std::vector<T>& first) {
  V vector;
  std::memset(&vector, 0, sizeof vector);
  std::memcpy(&vector, first.data(), first.size() * sizeof(T));
  return vector;
}

bool negative_zero(float x) { return x == 0.0f && std::signbit(x); }
bool positive_zero(float x) { return x == 0.0f && !std::signbit(x); }

void memory() {
  alignas(64) float room[32] = {};
  _mm512_mask_storeu_ps(room + 1, 0x8001, _mm512_set1_ps(3.0f));
  EXPECT(room[0] == 0.0f && room[1] == 3.0f && room[2] == 0.0f && room[15] == 0.0f && room[16] == 3.0f);
  const auto loaded = lanes_of<float>(_mm512_mask_loadu_ps(_mm512_set1_ps(7.0f), 2, room));
  EXPECT(loaded[0] == 7.0f && loaded[1] == 3.0f && loaded[2] == 7.0f);
  // Lanes that are not asked for are not read, nor written.
  EXPECT(lanes_of<float>(_mm512_maskz_loadu_ps(0, nullptr)) == std::vector<float>(16, 0.0f));
  EXPECT(lanes_of<std::uint8_t>(_mm512_maskz_loadu_epi16(0, nullptr)) == std::vector<std::uint8_t>(64, 0));
  EXPECT(lanes_of<std::uint8_t>(_mm256_maskz_loadu_epi32(0, nullptr)) == std::vector<std::uint8_t>(32, 0));
  _mm512_mask_storeu_epi16(nullptr, 0, _mm512_set1_epi16(1));
  std::uint16_t halves[32] = {};
  _mm256_mask_storeu_epi16(halves, 0x8002, _mm256_set1_epi16(9));
  EXPECT(halves[0] == 0 && halves[1] == 9 && halves[2] == 0 && halves[15] == 9 && halves[16] == 0);
  const __m512 rows = _mm512_load_ps(room);
  _mm512_store_ps(room + 16, rows);
  EXPECT(room[17] == 3.0f && room[16] == 0.0f);
}

void arithmetic() {
  const float a =
      1.0f + 0x1p-12f;  // a * a = 1 + 2^-11 + 2^-24: its last bit is lost unless rounded once, after the sum
  const __m512 x = _mm512_set1_ps(a), minus = _mm512_set1_ps(-(1.0f + 0x1p-11f));
  EXPECT(lanes_of<float>(_mm512_fmadd_ps(x, x, minus))[5] == 0x1p-24f);
  EXPECT(lanes_of<float>(_mm512_fnmadd_ps(x, x, _mm512_set1_ps(1.0f + 0x1p-11f)))[0] == -0x1p-24f);
  EXPECT(lanes_of<float>(x * x + minus)[5] == 0.0f);
  EXPECT(lanes_of<float>(x - minus)[0] == 2.0f + 0x1p-12f + 0x1p-11f);
  const __m512 odd = floats({kNan, 1.0f, -0.0f, 0.0f, 2.0f}), even = floats({1.0f, kNan, 0.0f, -0.0f, 3.0f});
  const auto largest = lanes_of<float>(_mm512_max_ps(odd, even)), least = lanes_of<float>(_mm512_min_ps(odd, even));
  EXPECT(largest[0] == 1.0f && std::isnan(largest[1]) && positive_zero(largest[2]) && negative_zero(largest[3]));
  EXPECT(least[0] == 1.0f && std::isnan(least[1]) && positive_zero(least[2]) && negative_zero(least[3]));
  EXPECT(largest[4] == 3.0f && least[4] == 2.0f);
  // 4 and 12 meet before 0: from left to right 2^24 + 1 would be 2^24, twice.
  std::vector<float> sum(16, 0.0f);
  sum[0] = 0x1p24f, sum[4] = 1.0f, sum[12] = 1.0f;
  EXPECT(_mm512_reduce_add_ps(floats(sum)) == 0x1p24f + 2.0f);
  EXPECT(_mm512_reduce_max_ps(counting<float, __m512>(-3)) == 12.0f);
  EXPECT(_mm512_reduce_min_ps(counting<float, __m512>(-3)) == -3.0f);
}

void rounding() {
  const __m512 x = floats({0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -1.7f, 8388609.0f, kInfinity, kNan, 0.3f});
  const auto nearest = lanes_of<float>(_mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  EXPECT(nearest[0] == 0.0f && nearest[1] == 2.0f && nearest[2] == 2.0f && negative_zero(nearest[3]));
  EXPECT(nearest[4] == -2.0f && nearest[5] == -2.0f && nearest[6] == 8388609.0f);
  EXPECT(nearest[7] == kInfinity && std::isnan(nearest[8]) && nearest[9] == 0.0f);
  EXPECT(lanes_of<float>(_mm512_roundscale_ps(x, 1))[5] == -2.0f);
  EXPECT(lanes_of<float>(_mm512_roundscale_ps(x, 2))[9] == 1.0f);
  EXPECT(lanes_of<float>(_mm512_roundscale_ps(x, 3))[5] == -1.0f);
  const auto halves = lanes_of<float>(_mm512_roundscale_ps(floats({0.3f, 0.25f, 0.75f, -1.2f}), 0x10));
  EXPECT(halves[0] == 0.5f && halves[1] == 0.0f && halves[2] == 1.0f && halves[3] == -1.0f);
  const auto rest = lanes_of<float>(_mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
  EXPECT(rest[0] == 0.5f && rest[2] == 0.5f && rest[3] == 0.5f && rest[4] == 0.5f && rest[5] == 2.0f - 1.7f);
  EXPECT(rest[6] == 0.0f && rest[7] == 0.0f && std::isnan(rest[8]) && rest[9] == 0.3f);
  EXPECT(lanes_of<float>(_mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))[1] == -0.5f);
}

void scaling() {
  const float smallest = std::numeric_limits<float>::denorm_min();
  const auto scaled = lanes_of<float>(_mm512_scalef_ps(
      floats({1.5f, 1.0f, 1.0f, 1.0f, 1.0f, 1.5f, -1.0f, 0.0f, kInfinity, kNan, kNan, 2.0f, 3.0f, -0.0f, kInfinity}),
      floats({3.0f, -1.5f, 128.0f, -149.0f, -150.0f, -150.0f, -300.0f, kInfinity, -kInfinity, kInfinity, -kInfinity,
              kNan, -kInfinity, 900.0f, -5.0f})));
  EXPECT(scaled[0] == 12.0f && scaled[1] == 0.25f && scaled[2] == kInfinity);
  EXPECT(scaled[3] == smallest && scaled[4] == 0.0f && scaled[5] == smallest && negative_zero(scaled[6]));
  EXPECT(std::isnan(scaled[7]) && std::isnan(scaled[8]) && scaled[9] == kInfinity && positive_zero(scaled[10]));
  EXPECT(std::isnan(scaled[11]) && positive_zero(scaled[12]) && negative_zero(scaled[13]) && scaled[14] == kInfinity);
  std::mt19937 generator(1);
  for (int round = 0; round < 1000; ++round) {
    const float x = std::ldexp(static_cast<float>(static_cast<std::int32_t>(generator())), -30);
    const float n = static_cast<float>(generator() % 4000) / 10.0f - 200.0f;
    const float expected = std::ldexp(x, static_cast<int>(std::floor(n)));
    EXPECT(lanes_of<float>(_mm512_scalef_ps(_mm512_set1_ps(x), _mm512_set1_ps(n)))[15] == expected);
  }
}

// Rows of the manual's table: what each predicate says of less, equal, greater, unordered.
template <int predicate>
void expect_predicate(unsigned expected) {
  const __m512 a = floats({1.0f, 2.0f, 3.0f, kNan}), b = floats({2.0f, 2.0f, 2.0f, 2.0f});
  EXPECT((_mm512_cmp_ps_mask(a, b, predicate) & 15u) == expected);
  EXPECT((_mm512_cmp_ps_mask(a, b, predicate + 16) & 15u) == expected);
}

void comparisons() {
  constexpr unsigned less = 1, same = 2, greater = 4, unordered = 8;
  expect_predicate<_CMP_EQ_OQ>(same);
  expect_predicate<_CMP_LT_OS>(less);
  expect_predicate<_CMP_LE_OS>(less | same);
  expect_predicate<_CMP_UNORD_Q>(unordered);
  expect_predicate<_CMP_NEQ_UQ>(less | greater | unordered);
  expect_predicate<_CMP_NLT_US>(same | greater | unordered);
  expect_predicate<_CMP_NLE_US>(greater | unordered);
  expect_predicate<_CMP_ORD_Q>(less | same | greater);
  expect_predicate<_CMP_EQ_UQ>(same | unordered);
  expect_predicate<_CMP_NGE_US>(less | unordered);
  expect_predicate<_CMP_NGT_US>(less | same | unordered);
  expect_predicate<_CMP_FALSE_OQ>(0);
  expect_predicate<_CMP_NEQ_OQ>(less | greater);
  expect_predicate<_CMP_GE_OS>(same | greater);
  expect_predicate<_CMP_GT_OS>(greater);
  expect_predicate<_CMP_TRUE_UQ>(less | same | greater | unordered);
  EXPECT(_mm512_cmp_ps_mask(floats({kNan, 0.0f}), _mm512_set1_ps(0.0f), _CMP_NLT_UQ) == 0xFFFF);

  const __m512i numbers = words<int, __m512i>({-1, 0, 1}), zeros = _mm512_setzero_si512();
  EXPECT(_mm512_cmpge_epi32_mask(numbers, zeros) == 0xFFFE && _mm512_cmplt_epi32_mask(numbers, zeros) == 1);
  EXPECT(_mm512_cmpgt_epi32_mask(numbers, zeros) == 4 && _mm512_cmple_epi32_mask(numbers, zeros) == 0xFFFB);
  EXPECT(_mm512_cmpeq_epi32_mask(numbers, zeros) == 0xFFFA && _mm512_cmpneq_epi32_mask(numbers, zeros) == 5);
  // 0x80 is 128 and not -128.
  const __m128i bytes = words<std::uint8_t, __m128i>({0x80, 0x7F, 0xFF, 0x81}), least = _mm_set1_epi8(char(0x80));
  EXPECT(_mm_cmpge_epu8_mask(bytes, least) == 0xD);
  const __m256i shorts = words<std::uint16_t, __m256i>({0x8000, 0x7FFF, 0xFFFF});
  EXPECT(_mm256_cmpge_epu16_mask(shorts, _mm256_set1_epi16(static_cast<short>(0x8000))) == 5);
  EXPECT(_mm512_reduce_max_epu32(words<std::uint32_t, __m512i>({1, 0x80000000u, 0x7FFFFFFFu})) == 0x80000000u);
}

void integers() {
  const auto product = lanes_of<std::uint64_t>(_mm512_mul_epu32(_mm512_set1_epi64(-1), _mm512_set1_epi64(-1)));
  EXPECT(product[0] == 0xFFFFFFFE00000001u && product[7] == product[0]);
  const __m512i ones = _mm512_set1_epi32(-1);
  EXPECT(lanes_of<std::uint32_t>(_mm512_slli_epi32(ones, 16))[3] == 0xFFFF0000u);
  EXPECT(lanes_of<std::uint32_t>(_mm512_srli_epi32(ones, 16))[3] == 0xFFFFu);
  EXPECT(lanes_of<std::uint32_t>(_mm512_slli_epi32(ones, 32))[3] == 0);
  EXPECT(lanes_of<std::int32_t>(_mm512_srai_epi32(_mm512_set1_epi32(-8), 2))[3] == -2);
  EXPECT(lanes_of<std::uint64_t>(_mm512_srli_epi64(ones, 32))[3] == 0xFFFFFFFFu);
  EXPECT(lanes_of<std::uint64_t>(_mm512_slli_epi64(ones, 63))[3] == 0x8000000000000000u);
  EXPECT(lanes_of<std::uint32_t>(_mm512_add_epi32(ones, ones))[3] == 0xFFFFFFFEu);
  EXPECT(lanes_of<std::uint64_t>(_mm512_add_epi64(ones, _mm512_set1_epi64(1)))[3] == 0);
  const __m512i a = _mm512_set1_epi32(0xF0), b = _mm512_set1_epi32(0xCC), c = _mm512_set1_epi32(0xAA);
  EXPECT(lanes_of<std::uint32_t>(_mm512_ternarylogic_epi32(a, b, c, 0x96))[0] == (0xF0u ^ 0xCCu ^ 0xAAu));
  EXPECT(lanes_of<std::uint32_t>(_mm512_ternarylogic_epi32(a, b, c, 0xCA))[0] == 0xCAu);  // a chooses b or c
  EXPECT(lanes_of<std::uint32_t>(_mm512_andnot_si512(a, b))[0] == 0x0Cu);
  const auto narrow = lanes_of<std::uint16_t>(_mm512_cvtepi32_epi16(_mm512_set1_epi32(0x12345678)));
  EXPECT(narrow[15] == 0x5678);
  EXPECT(lanes_of<std::uint32_t>(_mm512_cvtepu16_epi32(_mm256_set1_epi16(-1)))[15] == 0xFFFFu);
}

void halves() {
  const auto wide = lanes_of<float>(_mm512_cvtph_ps(
      words<std::uint16_t, __m256i>({0x3C00, 0x0001, 0x7BFF, 0x7C00, 0x8000, 0x7D00, 0xC500, 0x03FF, 0x0400})));
  EXPECT(wide[0] == 1.0f && wide[1] == 0x1p-24f && wide[2] == 65504.0f && wide[3] == kInfinity);
  EXPECT(negative_zero(wide[4]) && std::isnan(wide[5]) && wide[6] == -5.0f);
  EXPECT(wide[7] == 1023.0f * 0x1p-24f && wide[8] == 0x1p-14f);
  const auto narrow =
      lanes_of<std::uint16_t>(_mm512_cvtps_ph(floats({65519.996f, 65520.0f, 0x1p-25f, 0x1.8p-25f, 2049.0f, 2051.0f,
                                                      -0.0f, kNan, -kInfinity, 0x1.ffcp-15f, 0x1.ffep-15f, -5.0f}),
                                              _MM_FROUND_TO_NEAREST_INT));
  EXPECT(narrow[0] == 0x7BFF && narrow[1] == 0x7C00 && narrow[2] == 0 && narrow[3] == 1);
  EXPECT(narrow[4] == 0x6800 && narrow[5] == 0x6802 && narrow[6] == 0x8000 && narrow[7] == 0x7E00);
  EXPECT(narrow[8] == 0xFC00 && narrow[9] == 0x0400 && narrow[10] == 0x0400 && narrow[11] == 0xC500);

  const __m512 numbers =
      floats({1.0f + 0x1p-8f, 1.0f + 0x1.8p-7f, 0x1p-127f, -0x1p-127f, 0x1.fffffep127f, kNan, 1.0f, 1.0f + 0x1.02p-8f});
  const auto brains = lanes_of<std::uint16_t>(_mm512_cvtneps_pbh(numbers));
  EXPECT(brains[0] == 0x3F80 && brains[1] == 0x3F82 && brains[2] == 0 && brains[3] == 0x8000);
  EXPECT(brains[4] == 0x7F80 && brains[5] == 0x7FC0 && brains[6] == 0x3F80 && brains[7] == 0x3F81);
  const auto both = lanes_of<std::uint16_t>((__m512i)_mm512_cvtne2ps_pbh(_mm512_set1_ps(2.0f), _mm512_set1_ps(1.0f)));
  // 1 + 2^-24 is 1 where it is rounded, so the order shows: 1 + 2^-12 2^-12 is taken before the even product of -1.
  const __m512i left = words<std::uint16_t, __m512i>({0xBF80, 0x3980, 0x0001, 0x3F80}),
                right = words<std::uint16_t, __m512i>({0x3F80, 0x3980, 0x7F00, 0x4000});
  const auto dots = lanes_of<float>(_mm512_dpbf16_ps(floats({1.0f, 0x1p-127f}), (__m512bh)left, (__m512bh)right));
  EXPECT(dots[0] == 0.0f && dots[1] == 2.0f && dots[2] == 0.0f);
  EXPECT(both[0] == 0x3F80 && both[15] == 0x3F80 && both[16] == 0x4000 && both[31] == 0x4000);
}

void shuffles() {
  const __m512 a = counting<float, __m512>(0), b = counting<float, __m512>(100);
  EXPECT(lanes_of<float>(_mm512_unpacklo_ps(a, b)) ==
         (std::vector<float>{0, 100, 1, 101, 4, 104, 5, 105, 8, 108, 9, 109, 12, 112, 13, 113}));
  EXPECT(lanes_of<float>(_mm512_unpackhi_ps(a, b)) ==
         (std::vector<float>{2, 102, 3, 103, 6, 106, 7, 107, 10, 110, 11, 111, 14, 114, 15, 115}));
  EXPECT(lanes_of<float>(_mm512_shuffle_ps(a, b, 0x44)) ==
         (std::vector<float>{0, 1, 100, 101, 4, 5, 104, 105, 8, 9, 108, 109, 12, 13, 112, 113}));
  EXPECT(lanes_of<float>(_mm512_shuffle_ps(a, b, 0x1B)) ==
         (std::vector<float>{3, 2, 101, 100, 7, 6, 105, 104, 11, 10, 109, 108, 15, 14, 113, 112}));
  EXPECT(lanes_of<float>(_mm512_shuffle_f32x4(a, b, 0x88)) ==
         (std::vector<float>{0, 1, 2, 3, 8, 9, 10, 11, 100, 101, 102, 103, 108, 109, 110, 111}));
  EXPECT(lanes_of<float>(_mm512_shuffle_f32x4(a, b, 0xDD)) ==
         (std::vector<float>{4, 5, 6, 7, 12, 13, 14, 15, 104, 105, 106, 107, 112, 113, 114, 115}));
  const __m512i i = counting<std::uint16_t, __m512i>(0), j = counting<std::uint16_t, __m512i>(100);
  const auto low = lanes_of<std::uint16_t>(_mm512_unpacklo_epi16(i, j));
  const auto high = lanes_of<std::uint16_t>(_mm512_unpackhi_epi16(i, j));
  EXPECT(low[0] == 0 && low[1] == 100 && low[7] == 103 && low[8] == 8 && low[31] == 127);
  EXPECT(high[0] == 4 && high[1] == 104 && high[7] == 107 && high[8] == 12 && high[31] == 131);
  const __m512i w = counting<int, __m512i>(0);
  EXPECT(lanes_of<int>(_mm512_mask_shuffle_epi32(_mm512_set1_epi32(-1), 0xAAAA, w, _MM_PERM_CCAA)) ==
         (std::vector<int>{-1, 0, -1, 2, -1, 4, -1, 6, -1, 8, -1, 10, -1, 12, -1, 14}));
  EXPECT(lanes_of<int>(_mm512_mask_blend_epi32(2, w, _mm512_set1_epi32(-1)))[1] == -1);
  EXPECT(lanes_of<float>(_mm512_mask_blend_ps(2, a, b))[1] == 101.0f);
  EXPECT(lanes_of<float>(_mm512_maskz_mov_ps(2, b))[1] == 101.0f);
  EXPECT(lanes_of<float>(_mm512_maskz_mov_ps(2, b))[0] == 0.0f);
  EXPECT(lanes_of<int>(_mm512_extracti64x4_epi64(w, 1)) == (std::vector<int>{8, 9, 10, 11, 12, 13, 14, 15}));
  EXPECT(lanes_of<int>(_mm512_castsi512_si256(w)) == (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7}));
  const __m512i joined = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_set1_epi32(5)), _mm256_set1_epi32(6), 1);
  EXPECT(lanes_of<int>(joined)[7] == 5 && lanes_of<int>(joined)[8] == 6);
  EXPECT(lanes_of<int>(_mm512_zextsi256_si512(_mm256_set1_epi32(5)))[8] == 0);
}

void permutations() {
  const __m512i a = counting<std::uint16_t, __m512i>(0), b = counting<std::uint16_t, __m512i>(100);
  const auto index = words<std::uint16_t, __m512i>({31, 32, 63, 64, 5});
  const auto of_two = lanes_of<std::uint16_t>(_mm512_permutex2var_epi16(a, index, b));
  EXPECT(of_two[0] == 31 && of_two[1] == 100 && of_two[2] == 131 && of_two[3] == 0 && of_two[4] == 5);
  const auto of_one = lanes_of<std::uint16_t>(_mm512_permutexvar_epi16(index, a));
  EXPECT(of_one[0] == 31 && of_one[1] == 0 && of_one[2] == 31 && of_one[3] == 0 && of_one[4] == 5);
  const __m512i c = counting<int, __m512i>(0), d = counting<int, __m512i>(100);
  const auto words_of_two = lanes_of<int>(_mm512_permutex2var_epi32(c, words<int, __m512i>({15, 16, 31, 32}), d));
  EXPECT(words_of_two[0] == 15 && words_of_two[1] == 100 && words_of_two[2] == 115 && words_of_two[3] == 0);
  const __m512i e = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7),
                f = _mm512_setr_epi64(100, 101, 102, 103, 104, 105, 106, 107);
  EXPECT(lanes_of<long long>(_mm512_permutex2var_epi64(e, _mm512_setr_epi64(0, 8, 1, 9, 7, 15, 16, 24), f)) ==
         (std::vector<long long>{0, 100, 1, 101, 7, 107, 0, 100}));
  const __m256i g = counting<int, __m256i>(0), h = counting<int, __m256i>(100);
  const auto small = lanes_of<int>(_mm256_permutex2var_epi32(g, words<int, __m256i>({7, 8, 15, 16}), h));
  EXPECT(small[0] == 7 && small[1] == 100 && small[2] == 107 && small[3] == 0);
  const __m256i p = counting<std::uint16_t, __m256i>(0), q = counting<std::uint16_t, __m256i>(100);
  const auto pieces =
      lanes_of<std::uint16_t>(_mm256_permutex2var_epi16(p, words<std::uint16_t, __m256i>({15, 16, 31}), q));
  EXPECT(pieces[0] == 15 && pieces[1] == 100 && pieces[2] == 115);
  EXPECT(lanes_of<std::uint16_t>(_mm256_permutexvar_epi16(words<std::uint16_t, __m256i>({3, 17}), q))[1] == 101);
  EXPECT(lanes_of<int>(_mm256_permutexvar_epi32(words<int, __m256i>({3, 9}), h))[0] == 103);
}

struct alignas(64) Configuration {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t colsb[16] = {};
  std::uint8_t rows[16] = {};

  void size(int tile, int tile_rows, int tile_colsb) {
    rows[tile] = static_cast<std::uint8_t>(tile_rows);
    colsb[tile] = static_cast<std::uint16_t>(tile_colsb);
  }
};

std::uint16_t brain(float x) {  // of numbers that bfloat16 has
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<std::uint16_t>(bits >> 16);
}

// C (1, N) + A (1, 2K) B (K, N, 2).
std::vector<float> small_product(const std::vector<float>& a, const std::vector<float>& b, std::vector<float> c) {
  std::vector<std::uint16_t> left, right;
  for (float x : a) left.push_back(brain(x));
  for (float x : b) right.push_back(brain(x));
  const int pairs = static_cast<int>(a.size()) / 2, columns = static_cast<int>(c.size());
  Configuration configuration;
  configuration.size(0, 1, 4 * columns);
  configuration.size(1, 1, 4 * pairs);
  configuration.size(2, pairs, 4 * columns);
  _tile_loadconfig(&configuration);
  _tile_loadd(0, c.data(), 64);
  _tile_loadd(1, left.data(), 64);
  _tile_loadd(2, right.data(), 4 * columns);
  _tile_dpbf16ps(0, 1, 2);
  _tile_stored(0, c.data(), 64);
  _tile_release();
  return c;
}

void tiles() {
  Configuration configuration, stored;
  configuration.size(3, 2, 8);
  _tile_loadconfig(&configuration);
  _tile_storeconfig(&stored);
  EXPECT(std::memcmp(&configuration, &stored, 64) == 0);
  int memory[3][4] = {{1, 2, 3, 4}, {5, 6, 7, 8}, {9, 10, 11, 12}}, out[3][4] = {};
  _tile_loadd(3, memory, sizeof memory[0]);
  _tile_stored(3, out, sizeof out[0]);
  EXPECT(out[0][0] == 1 && out[0][1] == 2 && out[0][2] == 0 && out[1][0] == 5 && out[1][1] == 6 && out[2][0] == 0);
  _tile_zero(3);
  _tile_stored(3, out, sizeof out[0]);
  EXPECT(out[0][0] == 0 && out[1][1] == 0);
  _tile_stream_loadd(3, memory[1], sizeof memory[0]);
  _tile_loadconfig(&configuration);  // clears the tiles
  _tile_stored(3, memory, sizeof memory[0]);
  EXPECT(memory[0][0] == 0 && memory[0][2] == 3);
  _tile_release();
  _tile_storeconfig(&stored);
  EXPECT(stored.palette == 0 && stored.rows[3] == 0);

  // 10 + 1*5 + 2*6 + 3*9 + 4*10 and 0 + 1*7 + 2*8 + 3*11 + 4*12.
  EXPECT(small_product({1, 2, 3, 4}, {5, 6, 7, 8, 9, 10, 11, 12}, {10, 0}) == (std::vector<float>{94, 104}));
  // The odd products meet each other before they meet the even ones: in one sum both ones would be lost in 2^24.
  EXPECT(small_product({0x1p24f, 1, 0, 1}, {1, 1, 1, 1}, {0}) == std::vector<float>{0x1p24f + 2});
  // Denormals are zeros: as operands, as products, and in the destination.
  EXPECT(small_product({0x1p-127f, 0}, {0x1p127f, 0}, {0}) == std::vector<float>{0});
  EXPECT(small_product({0x1p-64f, 0}, {0x1p-64f, 0}, {0}) == std::vector<float>{0});
  EXPECT(small_product({0, 0}, {0, 0}, {0x1p-127f}) == std::vector<float>{0});
  EXPECT(small_product({0x1p-63f, 0}, {0x1p-63f, 0}, {0}) == std::vector<float>{0x1p-126f});
  EXPECT(std::isnan(small_product({kInfinity, 0}, {0, 0}, {0})[0]));
}

int misuse(const std::string& name) {
  Configuration configuration;
  alignas(64) char memory[1024] = {};
  configuration.size(0, 16, 64);
  configuration.size(1, 16, 64);
  configuration.size(2, 16, 64);
  configuration.size(3, 8, 64);
  if (name == "not configured") _tile_zero(0);
  if (name == "rows") configuration.size(1, 17, 64);
  if (name == "colsb") configuration.size(1, 16, 65);
  if (name == "half a size") configuration.size(1, 0, 64);
  if (name == "ninth tile") configuration.size(8, 16, 64);
  if (name == "palette") configuration.palette = 2;
  if (name == "reserved") configuration.reserved[3] = 1;
  if (name == "odd colsb") configuration.size(1, 16, 62);
  _tile_loadconfig(&configuration);
  if (name == "no rows") _tile_loadd(5, memory, 64);
  if (name == "no such tile") _tile_stored(8, memory, 64);
  if (name == "same tile") _tile_dpbf16ps(0, 1, 1);
  if (name == "odd colsb") _tile_dpbf16ps(0, 1, 2);
  if (name == "rows of the product") _tile_dpbf16ps(3, 1, 2);
  if (name == "depth of the product") _tile_dpbf16ps(0, 1, 3);
  if (name == "released") _tile_release(), _tile_dpbf16ps(0, 1, 2);
  if (name == "alignment") _mm512_store_ps(memory + 4, _mm512_setzero_ps());
  return 0;
}

int product(int rows, int pairs, int columns) {
  Configuration configuration;
  configuration.size(0, rows, 4 * columns);
  configuration.size(1, rows, 4 * pairs);
  configuration.size(2, pairs, 4 * columns);
  std::vector<std::uint32_t> a(static_cast<std::size_t>(rows * pairs)), b(static_cast<std::size_t>(pairs * columns));
  std::vector<float> c(static_cast<std::size_t>(rows * columns));
  if (std::fread(a.data(), 4, a.size(), stdin) != a.size() || std::fread(b.data(), 4, b.size(), stdin) != b.size() ||
      std::fread(c.data(), 4, c.size(), stdin) != c.size()) {
    return 2;
  }
  _tile_loadconfig(&configuration);
  _tile_loadd(0, c.data(), 4 * columns);
  _tile_loadd(1, a.data(), 4 * pairs);
  _tile_loadd(2, b.data(), 4 * columns);
  _tile_dpbf16ps(0, 1, 2);
  _tile_stored(0, c.data(), 4 * columns);
  return std::fwrite(c.data(), 4, c.size(), stdout) == c.size() ? 0 : 2;
}

}  // namespace

int main(int count, char** arguments) {
  const std::string family = count > 1 ? arguments[1] : "";
  if (family == "misuse" && count == 3) return misuse(arguments[2]);
  if (family == "product" && count == 5) {
    return product(std::atoi(arguments[2]), std::atoi(arguments[3]), std::atoi(arguments[4]));
  }
  constexpr struct {
    const char* name;
    void (*run)();
  } families[] = {{"memory", memory},   {"arithmetic", arithmetic},   {"rounding", rounding},
                  {"scaling", scaling}, {"comparisons", comparisons}, {"integers", integers},
                  {"halves", halves},   {"shuffles", shuffles},       {"permutations", permutations},
                  {"tiles", tiles}};
  for (const auto& known : families) {
    if (family == known.name) return known.run(), failures > 0 ? 1 : 0;
  }
  std::printf("no family '%s'\n", family.c_str());
  return 2;
}
