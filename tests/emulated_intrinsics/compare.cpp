// Holds the emulation against the processor: every intrinsic on random and extreme operands. Ends with 77 where the
// processor lacks AVX-512; what needs AVX512-BF16 or AMX is left out, with a word, where there is none.
//
// A call is written once and compiled twice: SAME(mm512_add_ps(v.a, v.b)) runs _mm512_add_ps on real vectors and
// fastbert_emulated::mm512_add_ps on emulated ones, and compares result and memory. Two NaNs in the same lane of a
// float result count as equal.
#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "../../csrc/cpu/isa/x86.h"
#include "amx.h"
#include "avx512_float.h"
#include "avx512_integer.h"
#include "avx512_moves.h"

namespace {

using fastbert_emulated::Float512;
using fastbert_emulated::Int512;

constexpr int kRounds = 2000;
int failures = 0;

// The same bits for both sides.
template <class Float, class Int>
struct Operands {
  Float a, b, c;
  Float calm;    // no NaN
  Float powers;  // what scalef is asked for
  Int i, j, k;
  __m256i g, h, l;
  __m128i q, r;
  float x;
  int n;
  long long w;
  short s;
  char t;
  __mmask8 m8;
  __mmask16 m16;
  __mmask32 m32;
  __mmask64 m64;
  alignas(64) unsigned char memory[192], out[192];
};
using Real = Operands<__m512, __m512i>;
using Played = Operands<Float512, Int512>;
static_assert(sizeof(Real) == sizeof(Played), "the operands must have the same layout");

std::mt19937_64 generator(20180611);

float random_float(bool nan) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  static const float extremes[] = {0.0f,       -0.0f,       1.0f,        -1.0f,           0.5f,
                                   1.5f,       2.5f,        -2.5f,       infinity,        -infinity,
                                   0x1p-126f,  0x1p-149f,   -0x1p-149f,  0x1.fffffep127f, 0x1p-127f,
                                   65504.0f,   65519.996f,  65520.0f,    0x1p-24f,        0x1p-25f,
                                   0x1.8p-25f, 1.00390625f, 1.01171875f, 127.0f,          -126.0f};
  const auto bits = static_cast<std::uint32_t>(generator());
  float x = 0.0f;
  switch (generator() % 4) {
    case 0:
      return extremes[bits % (sizeof extremes / sizeof *extremes)];
    case 1:
      return std::ldexp(static_cast<float>(static_cast<std::int32_t>(bits)), -28);
    case 2:
      if (nan && bits % 8 == 0) {
        const std::uint32_t pattern = (bits & 0x80000000u) | 0x7F800000u | (bits >> 9 | 1u);
        std::memcpy(&x, &pattern, 4);
        return x;
      }
      [[fallthrough]];
    default:
      std::memcpy(&x, &bits, 4);
      return nan || x == x ? x : 3.0f;
  }
}

template <class V>
void fill_floats(V& vector, bool nan) {
  float lanes[16];
  for (float& lane : lanes) lane = random_float(nan);
  std::memcpy(&vector, lanes, sizeof lanes);
}

Real random_operands() {
  Real v;
  auto* bytes = reinterpret_cast<unsigned char*>(&v);
  for (std::size_t i = 0; i < sizeof v; ++i) bytes[i] = static_cast<unsigned char>(generator());
  for (auto* vector : {&v.a, &v.b, &v.c}) fill_floats(*vector, true);
  fill_floats(v.calm, false);
  float powers[16];
  for (float& power : powers) {
    power = generator() % 4 == 0 ? random_float(true) : static_cast<float>(generator() % 4000) / 10.0f - 200.0f;
  }
  std::memcpy(&v.powers, powers, sizeof powers);
  if (generator() % 2 == 0) v.j = v.i;  // comparisons should meet equal lanes
  if (generator() % 2 == 0) v.b = v.a;
  if (generator() % 8 == 0) v.m16 = v.m8 = 0, v.m32 = 0, v.m64 = 0;
  if (generator() % 8 == 0) v.m16 = 0xFFFF, v.m8 = 0xFF, v.m32 = ~__mmask32{0}, v.m64 = ~__mmask64{0};
  return v;
}

template <class To, class From>
To bits_of(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "another size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

bool equal_floats(const void* a, const void* b, std::size_t bytes) {
  for (std::size_t at = 0; at < bytes; at += 4) {
    float x, y;
    std::memcpy(&x, static_cast<const char*>(a) + at, 4);
    std::memcpy(&y, static_cast<const char*>(b) + at, 4);
    if (std::memcmp(&x, &y, 4) != 0 && !(x != x && y != y)) return false;
  }
  return true;
}

template <class Emulated, class R>
bool equal(const R& real, const Emulated& played) {
  static_assert(sizeof(R) == sizeof(Emulated), "results of another size");
  if (std::is_same<Emulated, Float512>::value || std::is_same<Emulated, float>::value) {
    return equal_floats(&real, &played, sizeof real);
  }
  return std::memcmp(&real, &played, sizeof real) == 0;
}

template <class OnReal, class OnPlayed>
void same(const char* call, const OnReal& on_real, const OnPlayed& on_played) {
  for (int round = 0; round < kRounds; ++round) {
    Real real = random_operands();
    Played played = bits_of<Played>(real);
    bool agree;
    if constexpr (std::is_void<decltype(on_played(played))>::value) {
      on_real(real);
      on_played(played);
      agree = true;
    } else {
      const auto expected = on_real(real);
      const auto found = on_played(played);
      agree = equal(expected, found);
    }
    agree = agree && std::memcmp(real.out, played.out, sizeof real.out) == 0;
    if (!agree) {
      std::printf("%s: differs from the processor in round %d\n", call, round);
      ++failures;
      return;
    }
  }
}

#define SAME(...)                                                            \
  same(                                                                      \
      #__VA_ARGS__, []([[maybe_unused]] auto& v) { return _##__VA_ARGS__; }, \
      []([[maybe_unused]] auto& v) { return fastbert_emulated::__VA_ARGS__; })
#define SAME_SHUFFLES(name, ...) \
  SAME(name(__VA_ARGS__, 0x00)); \
  SAME(name(__VA_ARGS__, 0x1B)); \
  SAME(name(__VA_ARGS__, 0x44)); \
  SAME(name(__VA_ARGS__, 0x88)); \
  SAME(name(__VA_ARGS__, 0xA0)); \
  SAME(name(__VA_ARGS__, 0xDD)); \
  SAME(name(__VA_ARGS__, 0xEE)); \
  SAME(name(__VA_ARGS__, 0xFF))
#define SAME_FOR_PREDICATES(first)              \
  SAME(mm512_cmp_ps_mask(v.a, v.b, first));     \
  SAME(mm512_cmp_ps_mask(v.a, v.b, first + 1)); \
  SAME(mm512_cmp_ps_mask(v.a, v.b, first + 2)); \
  SAME(mm512_cmp_ps_mask(v.a, v.b, first + 3)); \
  SAME(mm512_cmp_ps_mask(v.a, v.b, first + 4)); \
  SAME(mm512_cmp_ps_mask(v.a, v.b, first + 5)); \
  SAME(mm512_cmp_ps_mask(v.a, v.b, first + 6)); \
  SAME(mm512_cmp_ps_mask(v.a, v.b, first + 7))

template <class V, class T>
auto* address_as(V&, T* p) {
  return reinterpret_cast<typename std::decay<V>::type*>(p);
}

__attribute__((noinline)) void compare_floats() {
  SAME(mm512_setzero_ps());
  SAME(mm512_set1_ps(v.x));
  SAME(mm512_castsi512_ps(v.i));
  SAME(mm512_castps_si512(v.a));
  SAME(mm512_loadu_ps(v.memory + 5));
  SAME(mm512_load_ps(v.memory + 64));
  SAME(mm512_storeu_ps(v.out + 3, v.a));
  SAME(mm512_store_ps(v.out + 64, v.a));
  SAME(mm512_stream_ps(address_as(v.x, v.out), v.a));
  SAME(mm512_maskz_loadu_ps(v.m16, v.memory + 7));
  SAME(mm512_mask_loadu_ps(v.a, v.m16, v.memory + 9));
  SAME(mm512_mask_storeu_ps(v.out + 11, v.m16, v.a));
  SAME(mm512_add_ps(v.a, v.b));
  SAME(mm512_sub_ps(v.a, v.b));
  SAME(mm512_mul_ps(v.a, v.b));
  SAME(mm512_div_ps(v.a, v.b));
  SAME(mm512_sqrt_ps(v.a));
  SAME(mm512_fmadd_ps(v.a, v.b, v.c));
  SAME(mm512_fmsub_ps(v.a, v.b, v.c));
  SAME(mm512_fnmadd_ps(v.a, v.b, v.c));
  SAME(mm512_max_ps(v.a, v.b));
  SAME(mm512_min_ps(v.a, v.b));
  SAME(mm512_roundscale_ps(v.a, 0));
  SAME(mm512_roundscale_ps(v.a, 1));
  SAME(mm512_roundscale_ps(v.a, 2));
  SAME(mm512_roundscale_ps(v.a, 3));
  SAME(mm512_roundscale_ps(v.a, 4));
  SAME(mm512_roundscale_ps(v.a, 8));
  SAME(mm512_roundscale_ps(v.a, 0x10));
  SAME(mm512_roundscale_ps(v.a, 0x31));
  SAME(mm512_roundscale_ps(v.a, 0xF2));
  SAME(mm512_reduce_ps(v.a, 8));
  SAME(mm512_reduce_ps(v.a, 9));
  SAME(mm512_reduce_ps(v.powers, 8));
  SAME(mm512_reduce_ps(v.powers, 9));
  SAME(mm512_reduce_ps(v.powers, 10));
  SAME(mm512_reduce_ps(v.powers, 11));
  SAME(mm512_reduce_ps(v.powers, 0x12));
  SAME(mm512_scalef_ps(v.a, v.powers));
  SAME(mm512_scalef_ps(v.a, v.c));
  SAME_FOR_PREDICATES(0);
  SAME_FOR_PREDICATES(8);
  SAME_FOR_PREDICATES(16);
  SAME_FOR_PREDICATES(24);
  SAME(mm512_reduce_add_ps(v.calm));
  SAME(mm512_reduce_max_ps(v.calm));
  SAME(mm512_reduce_min_ps(v.calm));
  SAME(mm512_cvtph_ps(v.h));
  SAME(mm512_cvtps_ph(v.a, 0));
  SAME(mm512_cvtps_ph(v.a, 4));
  SAME(mm512_cvtps_ph(v.a, 8));
  SAME(mm512_cvtepi32_ps(v.i));
}

__attribute__((noinline)) void compare_integers() {
  SAME(mm512_setzero_si512());
  SAME(mm512_set1_epi8(v.t));
  SAME(mm512_set1_epi16(v.s));
  SAME(mm512_set1_epi32(v.n));
  SAME(mm512_set1_epi64(v.w));
  SAME(mm512_setr_epi32(v.n, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, v.s));
  SAME(mm512_setr_epi64(v.w, 1, 2, 3, 4, 5, 6, v.n));
  SAME(mm512_loadu_si512(v.memory + 1));
  SAME(mm512_load_si512(v.memory));
  SAME(mm512_loadu_epi16(v.memory + 1));
  SAME(mm512_loadu_epi32(v.memory + 1));
  SAME(mm512_storeu_si512(v.out + 1, v.i));
  SAME(mm512_store_si512(v.out, v.i));
  SAME(mm512_stream_si512(address_as(v.i, v.out), v.i));
  SAME(mm512_storeu_epi16(v.out + 1, v.i));
  SAME(mm512_storeu_epi32(v.out + 1, v.i));
  SAME(mm512_maskz_loadu_epi8(v.m64, v.memory + 1));
  SAME(mm512_maskz_loadu_epi16(v.m32, v.memory + 1));
  SAME(mm512_maskz_loadu_epi32(v.m16, v.memory + 1));
  SAME(mm256_maskz_loadu_epi8(v.m32, v.memory + 1));
  SAME(mm256_maskz_loadu_epi16(v.m16, v.memory + 1));
  SAME(mm256_maskz_loadu_epi32(v.m8, v.memory + 1));
  SAME(mm_maskz_loadu_epi8(v.m16, v.memory + 1));
  SAME(mm512_mask_storeu_epi8(v.out + 1, v.m64, v.i));
  SAME(mm512_mask_storeu_epi16(v.out + 1, v.m32, v.i));
  SAME(mm512_mask_storeu_epi32(v.out + 1, v.m16, v.i));
  SAME(mm256_mask_storeu_epi8(v.out + 1, v.m32, v.h));
  SAME(mm256_mask_storeu_epi16(v.out + 1, v.m16, v.h));
  SAME(mm256_mask_storeu_epi32(v.out + 1, v.m8, v.h));
  SAME(mm_mask_storeu_epi8(v.out + 1, v.m16, v.q));
  SAME(mm512_add_epi32(v.i, v.j));
  SAME(mm512_add_epi64(v.i, v.j));
  SAME(mm512_sub_epi32(v.i, v.j));
  SAME(mm512_mullo_epi32(v.i, v.j));
  SAME(mm512_mul_epu32(v.i, v.j));
  SAME(mm512_and_si512(v.i, v.j));
  SAME(mm512_andnot_si512(v.i, v.j));
  SAME(mm512_or_si512(v.i, v.j));
  SAME(mm512_xor_si512(v.i, v.j));
  SAME(mm512_ternarylogic_epi32(v.i, v.j, v.k, 0x96));
  SAME(mm512_ternarylogic_epi32(v.i, v.j, v.k, 0xCA));
  SAME(mm512_ternarylogic_epi32(v.i, v.j, v.k, 0x17));
  SAME(mm512_slli_epi32(v.i, 16));
  SAME(mm512_slli_epi32(v.i, 32));
  SAME(mm512_srli_epi32(v.i, 16));
  SAME(mm512_srli_epi32(v.i, 33));
  SAME(mm512_srai_epi32(v.i, 7));
  SAME(mm512_srai_epi32(v.i, 40));
  SAME(mm512_slli_epi64(v.i, 32));
  SAME(mm512_slli_epi64(v.i, 64));
  SAME(mm512_srli_epi64(v.i, 32));
  SAME(mm512_srli_epi64(v.i, 65));
  SAME(mm512_cmpeq_epi32_mask(v.i, v.j));
  SAME(mm512_cmpneq_epi32_mask(v.i, v.j));
  SAME(mm512_cmplt_epi32_mask(v.i, v.j));
  SAME(mm512_cmple_epi32_mask(v.i, v.j));
  SAME(mm512_cmpgt_epi32_mask(v.i, v.j));
  SAME(mm512_cmpge_epi32_mask(v.i, v.j));
  SAME(mm_cmpge_epu8_mask(v.q, v.r));
  SAME(mm256_cmpge_epu8_mask(v.h, v.g));
  SAME(mm512_cmpge_epu8_mask(v.i, v.j));
  SAME(mm256_cmpge_epu16_mask(v.g, v.h));
  SAME(mm512_reduce_max_epu32(v.i));
  SAME(mm512_cvtepu16_epi32(v.h));
  SAME(mm512_cvtepu8_epi32(v.q));
  SAME(mm512_cvtepi32_epi16(v.i));
}

__attribute__((noinline)) void compare_moves() {
  SAME(mm512_mask_blend_ps(v.m16, v.a, v.b));
  SAME(mm512_mask_blend_epi32(v.m16, v.i, v.k));
  SAME(mm512_mask_blend_epi16(v.m32, v.i, v.k));
  SAME(mm512_mask_mov_ps(v.a, v.m16, v.c));
  SAME(mm512_maskz_mov_ps(v.m16, v.a));
  SAME(mm512_maskz_mov_epi32(v.m16, v.i));
  SAME(mm512_maskz_mov_epi16(v.m32, v.i));
  SAME(mm512_unpacklo_ps(v.a, v.c));
  SAME(mm512_unpackhi_ps(v.a, v.c));
  SAME(mm512_unpacklo_epi16(v.i, v.k));
  SAME(mm512_unpackhi_epi16(v.i, v.k));
  SAME(mm512_unpacklo_epi32(v.i, v.k));
  SAME(mm512_unpackhi_epi32(v.i, v.k));
  SAME(mm512_unpacklo_epi64(v.i, v.k));
  SAME(mm512_unpackhi_epi64(v.i, v.k));
  SAME_SHUFFLES(mm512_shuffle_ps, v.a, v.c);
  SAME_SHUFFLES(mm512_shuffle_f32x4, v.a, v.c);
  SAME_SHUFFLES(mm512_shuffle_i32x4, v.i, v.k);
  SAME(mm512_shuffle_epi32(v.i, _MM_PERM_CCAA));
  SAME(mm512_shuffle_epi32(v.i, _MM_PERM_ABCD));
  SAME(mm512_mask_shuffle_epi32(v.i, v.m16, v.k, _MM_PERM_CCAA));
  SAME(mm512_mask_shuffle_epi32(v.i, v.m16, v.k, _MM_PERM_DBCA));
  SAME(mm512_permutexvar_ps(v.i, v.a));
  SAME(mm512_permutexvar_epi16(v.i, v.k));
  SAME(mm512_permutexvar_epi32(v.i, v.k));
  SAME(mm512_permutexvar_epi64(v.i, v.k));
  SAME(mm256_permutexvar_epi16(v.g, v.h));
  SAME(mm256_permutexvar_epi32(v.g, v.h));
  SAME(mm512_permutex2var_ps(v.a, v.i, v.c));
  SAME(mm512_permutex2var_epi16(v.i, v.j, v.k));
  SAME(mm512_permutex2var_epi32(v.i, v.j, v.k));
  SAME(mm512_permutex2var_epi64(v.i, v.j, v.k));
  SAME(mm256_permutex2var_epi16(v.g, v.h, v.l));
  SAME(mm256_permutex2var_epi32(v.g, v.h, v.l));
  SAME(mm512_castsi512_si256(v.i));
  SAME(mm512_castsi512_si128(v.i));
  SAME(mm512_castps512_ps256(v.a));
  SAME(mm512_extracti64x4_epi64(v.i, 0));
  SAME(mm512_extracti64x4_epi64(v.i, 1));
  SAME(mm512_extracti32x4_epi32(v.i, 0));
  SAME(mm512_extracti32x4_epi32(v.i, 3));
  SAME(mm512_inserti64x4(v.i, v.h, 0));
  SAME(mm512_inserti64x4(v.i, v.h, 1));
  SAME(mm512_inserti32x4(v.i, v.q, 0));
  SAME(mm512_inserti32x4(v.i, v.q, 2));
  SAME(mm512_zextsi256_si512(v.h));
}

#if !defined(FASTBERT_COMPARE_AVX512_ONLY)

__attribute__((noinline)) void compare_bfloat16() {
  SAME(mm512_cvtneps_pbh(v.a));
  SAME(mm512_cvtne2ps_pbh(v.a, v.c));
  using Real = __m512bh;
  using Played = fastbert_emulated::Bfloat512;
  same(
      "mm512_dpbf16_ps", [](auto& v) { return _mm512_dpbf16_ps(v.a, (Real)v.i, (Real)v.j); },
      [](auto& v) { return fastbert_emulated::mm512_dpbf16_ps(v.a, Played(v.i), Played(v.j)); });
}

// A configuration, operands, and what one product leaves in memory: all three tiles, with their strides.
struct TileCase {
  alignas(64) unsigned char config[64];
  std::vector<std::uint16_t> a, b;
  std::vector<float> c;
};

constexpr int kPitch = 80;  // bytes from row to row: more than a tile is wide

TileCase random_tile_case(bool whole_numbers) {
  TileCase made{};
  const int rows = 1 + static_cast<int>(generator() % 16), pairs = 1 + static_cast<int>(generator() % 16);
  const int columns = 1 + static_cast<int>(generator() % 16);
  const int sizes[3][2] = {{rows, columns}, {rows, pairs}, {pairs, columns}};
  made.config[0] = 1;
  for (int tile = 0; tile < 3; ++tile) {
    made.config[48 + tile] = static_cast<unsigned char>(sizes[tile][0]);
    made.config[16 + 2 * tile] = static_cast<unsigned char>(4 * sizes[tile][1]);
  }
  const auto number = [&] {
    return whole_numbers ? static_cast<float>(static_cast<int>(generator() % 33) - 16) : random_float(false);
  };
  for (auto* operand : {&made.a, &made.b}) {
    operand->resize(16 * kPitch / 2);
    for (std::uint16_t& x : *operand) x = static_cast<std::uint16_t>(bits_of<std::uint32_t>(number()) >> 16);
  }
  made.c.resize(16 * kPitch / 4);
  for (float& x : made.c) x = number();
  return made;
}

#define RUN_TILES(prefix, input, result)              \
  prefix##_loadconfig((input).config);                \
  prefix##_storeconfig((result).config);              \
  prefix##_zero(0);                                   \
  prefix##_loadd(0, (input).c.data(), kPitch);        \
  prefix##_loadd(1, (input).a.data(), kPitch);        \
  prefix##_stream_loadd(2, (input).b.data(), kPitch); \
  prefix##_dpbf16ps(0, 1, 2);                         \
  prefix##_stored(0, (result).c.data(), kPitch);      \
  prefix##_stored(1, (result).a.data(), kPitch);      \
  prefix##_release()

// Whole numbers must agree in every bit. Others too where the processor sums in the order its manual gives; that order
// is no promise between generations, so here a few roundings of the largest sum are allowed.
__attribute__((noinline)) void compare_tiles() {
  for (int round = 0; round < kRounds; ++round) {
    const bool whole_numbers = round % 2 == 0;
    const TileCase input = random_tile_case(whole_numbers);
    TileCase real = input, played = input;
    RUN_TILES(_tile, input, real);
    RUN_TILES(fastbert_emulated::tile, input, played);
    bool agree = std::memcmp(real.config, played.config, 64) == 0 && real.a == played.a && real.b == played.b;
    for (std::size_t i = 0; i < real.c.size(); ++i) {
      const float x = real.c[i], y = played.c[i];
      const float allowed = whole_numbers ? 0.0f : 1e-5f * (std::fabs(x) + std::fabs(y) + 1.0f);
      const bool both_huge = !(std::fabs(x) < 1e30f) && !(std::fabs(y) < 1e30f);  // inf here, NaN there: order again
      agree = agree && (x == y || std::fabs(x - y) <= allowed || (!whole_numbers && both_huge));
    }
    if (!agree) {
      std::printf("tiles: differ from the processor in round %d\n", round);
      ++failures;
      return;
    }
  }
}

#endif

}  // namespace

int main() {
#if !defined(FASTBERT_COMPARE_AVX512_ONLY)
  const fastbert::Isa isa = fastbert::best_x86_isa();
  if (isa < fastbert::Isa::avx512) {
    std::puts("this machine has no AVX-512");
    return 77;
  }
#endif
  compare_floats();
  compare_integers();
  compare_moves();
#if !defined(FASTBERT_COMPARE_AVX512_ONLY)
  if (isa >= fastbert::Isa::avx512_bf16) {
    compare_bfloat16();
  } else {
    std::puts("this machine has no AVX512-BF16: it was not compared");
  }
  if (isa >= fastbert::Isa::amx && fastbert::request_amx_permission()) {
    compare_tiles();
  } else {
    std::puts("this machine has no AMX: tiles were not compared");
  }
#endif
  return failures > 0 ? 1 : 0;
}
