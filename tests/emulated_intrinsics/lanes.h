// The emulated vectors, and the few loops that all emulated operations are made of.
//
// Everything here is in an anonymous namespace, as in the kernels: nothing of it may be shared between files compiled
// for different instruction sets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace fastbert_emulated {
namespace {

// Ends the program as a fault would, but says why.
[[noreturn]] inline void misuse(const char* what) {
  std::fprintf(stderr, "emulated intrinsics: %s\n", what);
  std::abort();
}

// The vector types are told apart by the compiler as the real ones are; their bits are looked at through Lanes.
struct alignas(64) Float512 {
  float lane[16];
};
struct alignas(64) Int512 {
  std::uint64_t lane[8];
};
struct alignas(32) Bfloat256 {
  std::uint16_t lane[16];
  explicit operator __m256i() const {
    __m256i bits;
    __builtin_memcpy(&bits, this, sizeof bits);
    return bits;
  }
};
struct alignas(64) Bfloat512 {
  std::uint16_t lane[32];
  Bfloat512() = default;
  explicit Bfloat512(const Int512& bits) { __builtin_memcpy(lane, &bits, sizeof lane); }
  explicit operator Int512() const {
    Int512 bits;
    __builtin_memcpy(&bits, this, sizeof bits);
    return bits;
  }
};

// The same bits as another type.
template <class To, class From>
inline To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "another size");
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

// A vector of whatever type as lanes of T; lane 0 is the lowest.
template <class T, class V>
struct Lanes {
  static constexpr int count = static_cast<int>(sizeof(V) / sizeof(T));
  T lane[sizeof(V) / sizeof(T)];

  Lanes() = default;
  explicit Lanes(const V& vector) { __builtin_memcpy(lane, &vector, sizeof lane); }
  V vector() const { return bits_as<V>(lane); }
  T& operator[](int index) { return lane[index]; }
  const T& operator[](int index) const { return lane[index]; }
};

template <class T, class V>
inline V broadcast(T x) {
  Lanes<T, V> result;
  for (int i = 0; i < result.count; ++i) result[i] = x;
  return result.vector();
}

template <class T, class V, class Function>
inline V each(const V& a, const Function& function) {
  const Lanes<T, V> x(a);
  Lanes<T, V> result;
  for (int i = 0; i < x.count; ++i) result[i] = static_cast<T>(function(x[i]));
  return result.vector();
}

template <class T, class V, class Function>
inline V each(const V& a, const V& b, const Function& function) {
  const Lanes<T, V> x(a), y(b);
  Lanes<T, V> result;
  for (int i = 0; i < x.count; ++i) result[i] = static_cast<T>(function(x[i], y[i]));
  return result.vector();
}

template <class T, class V, class Function>
inline V each(const V& a, const V& b, const V& c, const Function& function) {
  const Lanes<T, V> x(a), y(b), z(c);
  Lanes<T, V> result;
  for (int i = 0; i < x.count; ++i) result[i] = static_cast<T>(function(x[i], y[i], z[i]));
  return result.vector();
}

// From one width of lanes to another: as many lanes, in the same order.
template <class To, class Out, class From, class In, class Function>
inline Out convert(const In& a, const Function& function) {
  const Lanes<From, In> x(a);
  Lanes<To, Out> result;
  static_assert(Lanes<From, In>::count == Lanes<To, Out>::count, "another number of lanes");
  for (int i = 0; i < x.count; ++i) result[i] = static_cast<To>(function(x[i]));
  return result.vector();
}

// Bit i of the mask: function(a[i], b[i]).
template <class Mask, class T, class V, class Function>
inline Mask compare(const V& a, const V& b, const Function& function) {
  const Lanes<T, V> x(a), y(b);
  static_assert(sizeof(Mask) * 8 >= Lanes<T, V>::count, "too few bits");
  std::uint64_t mask = 0;
  for (int i = 0; i < x.count; ++i) mask |= static_cast<std::uint64_t>(function(x[i], y[i]) ? 1 : 0) << i;
  return static_cast<Mask>(mask);
}

// Where the bit is set the lane of `yes`, else that of `no`.
template <class T, class V>
inline V select(std::uint64_t mask, const V& yes, const V& no) {
  const Lanes<T, V> x(yes), y(no);
  Lanes<T, V> result;
  for (int i = 0; i < x.count; ++i) result[i] = (mask >> i & 1) != 0 ? x[i] : y[i];
  return result.vector();
}

template <class V>
inline V zero() {
  return broadcast<std::uint64_t, V>(0);
}

template <class V>
inline V load(const void* from) {
  V result;
  __builtin_memcpy(&result, from, sizeof result);
  return result;
}

template <class V>
inline void store(void* to, const V& x) {
  __builtin_memcpy(to, &x, sizeof x);
}

inline void need_alignment(const void* address) {
  if (reinterpret_cast<std::uintptr_t>(address) % 64 != 0)
    misuse("an aligned access to an address not divisible by 64");
}

// Memory of lanes whose bit is not set is not touched.
template <class T, class V>
inline V load_masked(std::uint64_t mask, const void* from, const V& otherwise) {
  Lanes<T, V> result(otherwise);
  for (int i = 0; i < result.count; ++i) {
    if ((mask >> i & 1) != 0) __builtin_memcpy(&result[i], static_cast<const char*>(from) + i * sizeof(T), sizeof(T));
  }
  return result.vector();
}

template <class T, class V>
inline void store_masked(void* to, std::uint64_t mask, const V& x) {
  const Lanes<T, V> lanes(x);
  for (int i = 0; i < lanes.count; ++i) {
    if ((mask >> i & 1) != 0) __builtin_memcpy(static_cast<char*>(to) + i * sizeof(T), &lanes[i], sizeof(T));
  }
}

}  // namespace
}  // namespace fastbert_emulated
