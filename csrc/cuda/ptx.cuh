// The PTX instructions that C++ has no word for, one function each. Nothing else in this folder contains assembly.
//
// Fragments of the tensor core's m16n8k16, in lane l of a warp: A (16 x 16, row-major) is 4 registers of two numbers,
// rows l / 4 (+ 8 in registers 1 and 3), columns 2 (l % 4) + {0, 1} (+ 8 in registers 2 and 3). B (16 x 8,
// column-major) is 2 registers, column l / 4, rows 2 (l % 4) + {0, 1} (+ 8 in register 1). C (16 x 8, float32) is 4
// numbers, rows l / 4 (+ 8 in numbers 2 and 3), columns 2 (l % 4) + {0, 1}.
#pragma once

#include <cstdint>

namespace fastbert {
namespace cuda {
namespace {

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// The 16-bit types, as what a kernel is compiled for.
struct BFloat16 {};
struct Float16 {};

// Two float32 numbers, rounded to nearest, `low` in the low half.
template <class Element>
__device__ __forceinline__ std::uint32_t pack(float low, float high);

template <>
__device__ __forceinline__ std::uint32_t pack<BFloat16>(float low, float high) {
  std::uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

template <>
__device__ __forceinline__ std::uint32_t pack<Float16>(float low, float high) {
  std::uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// The low and the high half as float32.
template <class Element>
__device__ __forceinline__ float2 unpack(std::uint32_t packed);

template <>
__device__ __forceinline__ float2 unpack<BFloat16>(std::uint32_t packed) {
  return {__uint_as_float(packed << 16), __uint_as_float(packed & 0xFFFF0000u)};
}

template <>
__device__ __forceinline__ float2 unpack<Float16>(std::uint32_t packed) {
  float2 pair;
  asm("{.reg .f16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
      : "=f"(pair.x), "=f"(pair.y)
      : "r"(packed));
  return pair;
}

// c += a b.
template <class Element>
__device__ __forceinline__ void mma(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1);

template <>
__device__ __forceinline__ void mma<BFloat16>(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                              std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void mma<Float16>(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                             std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// threadIdx.x, read anew: what comes of it is computed where it is used, and not kept in registers from the start on.
__device__ __forceinline__ unsigned fresh_thread() {
  unsigned thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

// Makes the compiler forget where numbers of 32 bits came from: what follows from them is computed anew, for that
// reason.
template <class... Numbers>
__device__ __forceinline__ void refresh(Numbers&... numbers) {
  const auto one = [](auto& x) { asm volatile("" : "+r"(x)); };
  (one(numbers), ...);
}

// A place in shared memory: (address ^ turned) + offset. Computed where it is used: places that differ by constants
// would otherwise be kept in a register each.
struct SharedPlace {
  std::uint32_t address, turned, offset;
};

// Four 8 x 8 matrices of 16-bit numbers: lanes 8 m to 8 m + 7 give the places of the rows of matrix m.
__device__ __forceinline__ void ldmatrix(std::uint32_t (&r)[4], const SharedPlace& place) {
  asm volatile(
      "{.reg .b32 at; xor.b32 at, %4, %5; add.u32 at, at, %6;"
      "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [at];}"
      : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
      : "r"(place.address), "r"(place.turned), "r"(place.offset)
      : "memory");
}

__device__ __forceinline__ void ldmatrix_transposed(std::uint32_t (&r)[4], const SharedPlace& place) {
  asm volatile(
      "{.reg .b32 at; xor.b32 at, %4, %5; add.u32 at, at, %6;"
      "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [at];}"
      : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
      : "r"(place.address), "r"(place.turned), "r"(place.offset)
      : "memory");
}

__device__ __forceinline__ void store_shared(const SharedPlace& place, std::uint32_t value) {
  asm volatile("{.reg .b32 at; xor.b32 at, %0, %1; add.u32 at, at, %2; st.shared.b32 [at], %3;}" ::"r"(place.address),
               "r"(place.turned), "r"(place.offset), "r"(value)
               : "memory");
}

__device__ __forceinline__ void store_shared(std::uint32_t address, std::uint32_t value) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}

__device__ __forceinline__ uint4 load_shared(std::uint32_t address) {
  uint4 value;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(address)
               : "memory");
  return value;
}

__device__ __forceinline__ void store_shared(std::uint32_t address, const uint4& value) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(value.x), "r"(value.y), "r"(value.z),
               "r"(value.w)
               : "memory");
}

__device__ __forceinline__ float2 load_shared_pair(std::uint32_t address) {
  float2 value;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(value.x), "=f"(value.y) : "r"(address) : "memory");
  return value;
}

__device__ __forceinline__ void store_shared(std::uint32_t address, const float2& value) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(value.x), "f"(value.y) : "memory");
}

__device__ __forceinline__ void store_global(void* address, const uint4& value) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(address)), "r"(value.x),
               "r"(value.y), "r"(value.z), "r"(value.w)
               : "memory");
}

// Hides from the compiler how an address came about, so that it goes on from here.
template <class T>
__device__ __forceinline__ void forget_origin(const T*& pointer) {
  asm("" : "+l"(pointer));
}

// 16 bytes from global to shared memory, past the registers; zeros, and no read, where not `present`.
__device__ __forceinline__ void copy_async(std::uint32_t to, const void* from, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)),
               "r"(present ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until all but the last `Pending` groups of this thread have arrived.
template <int Pending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// Waits for all warps of the block. They may stand at different calls, which __syncthreads() does not promise.
__device__ __forceinline__ void sync_block() { asm volatile("bar.sync 0;" ::: "memory"); }

// 2^x to about 2 units in the last place; 2^-inf = 0.
__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Two masks of 16 bits: the top bits of bytes 2 Pair and 2 Pair + 1, repeated.
template <int Pair>
__device__ __forceinline__ std::uint32_t spread_top_bits(std::uint32_t word) {
  std::uint32_t masks;
  asm("prmt.b32 %0, %1, %1, %2;" : "=r"(masks) : "r"(word), "n"(Pair == 0 ? 0x9988 : 0xBBAA));
  return masks;
}

// To about 1 unit in the last place.
__device__ __forceinline__ float reciprocal_approximate(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// To about 2^-22 between 1/2 and 2, relative to the result elsewhere.
__device__ __forceinline__ float log2_approximate(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ std::uint32_t load_acquire(const std::uint32_t* address) {
  std::uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(__cvta_generic_to_global(address)) : "memory");
  return value;
}

// *address += value, in the order of release. Numbers that only ever grow need no more.
__device__ __forceinline__ void add_release(std::uint32_t* address, std::uint32_t value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(address)), "r"(value)
               : "memory");
}

// address[0] += x, address[1] += y, each by itself; of 8 bytes at once from sm_90 on.
__device__ __forceinline__ void add_atomically(float* address, float x, float y) {
#if __CUDA_ARCH__ >= 900
  asm volatile("red.relaxed.gpu.global.add.v2.f32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(address)), "f"(x),
               "f"(y)
               : "memory");
#else
  asm volatile("red.relaxed.gpu.global.add.f32 [%0], %1;" ::"l"(__cvta_generic_to_global(address)), "f"(x) : "memory");
  asm volatile("red.relaxed.gpu.global.add.f32 [%0+4], %1;" ::"l"(__cvta_generic_to_global(address)), "f"(y)
               : "memory");
#endif
}

}  // namespace
}  // namespace cuda
}  // namespace fastbert
