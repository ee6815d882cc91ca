// C = A B^T: bf16 in, float32 out, the sample kernel of the emulator's tests. A is (m, k), B is (n, k), C is (m, n),
// row-major, k a multiple of 64. A block of 4 warps makes a 64 x 64 tile of C, each warp 32 x 32, from two stages of
// cp.async. A row of a stage is 128 bytes; its 16-byte chunk c lies at c ^ (row % 8), so that ldmatrix meets no bank
// twice.
//
// With BUG_name defined it has one mistake, which the emulator must report. test_planted_bugs.py puts all variants,
// each in a namespace of its own and with its own KERNEL, into one file, as every run of nvcc costs more than a second.
#include <cstdint>

#ifndef KERNEL
#define KERNEL gemm
#endif

#define TILE 64
#define DEPTH 64
#define ROW_BYTES (DEPTH * 2)

__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

__device__ inline uint32_t swizzled(int row, int chunk) {
#ifdef NO_SWIZZLE
  return row * ROW_BYTES + chunk * 16;
#else
  return row * ROW_BYTES + (chunk ^ (row & 7)) * 16;
#endif
}

__device__ inline void copy_async(uint32_t to, const void* from, bool valid) {
#ifdef BUG_NO_ZERO_FILL
  if (valid) asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
#endif
}

// Rows first.. of a matrix, columns k.. of it, to a stage; rows past the end become zeros.
__device__ inline void load_tile(uint32_t stage, const uint16_t* matrix, int first, int rows, int k, int stride) {
  for (int i = threadIdx.x; i < TILE * 8; i += blockDim.x) {
    int row = i / 8, chunk = i % 8;
#ifdef BUG_OFF_BY_ONE_ROW
    bool valid = first + row <= rows;
#else
    bool valid = first + row < rows;
#endif
    const uint16_t* from = matrix + static_cast<int64_t>(valid ? first + row : 0) * stride + k + chunk * 8;
#ifdef BUG_MISALIGNED
    from += 4;
#endif
    copy_async(stage + swizzled(row, chunk), from, valid);
  }
}

__device__ inline void ldmatrix(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef BUG_SWAPPED_FRAGMENT
  const int second = 2, third = 1;
#else
  const int second = 1, third = 2;
#endif
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[second]), "r"(a[third]), "r"(a[3]), "r"(b0), "r"(b1));
}

extern "C" __global__ void __launch_bounds__(128)
    KERNEL(float* c, const uint16_t* a, const uint16_t* b, int m, int n, int k) {
  extern __shared__ __align__(128) unsigned char memory[];
  const uint32_t base = shared_address(memory);
  const int first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_row = warp / 2 * 32, warp_column = warp % 2 * 32;
  float total[2][4][4] = {};

  auto load_stage = [&](int step) {
    uint32_t stage = base + (step % 2) * 2 * TILE * ROW_BYTES;
    load_tile(stage, a, first_row, m, step * DEPTH, k);
    load_tile(stage + TILE * ROW_BYTES, b, first_column, n, step * DEPTH, k);
  };
  load_stage(0);
  asm volatile("cp.async.commit_group;" ::: "memory");
  for (int step = 0; step < k / DEPTH; step++) {
    if (step + 1 < k / DEPTH) load_stage(step + 1);
#ifndef BUG_NO_COMMIT
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
#ifdef BUG_WAITS_TOO_LITTLE
    asm volatile("cp.async.wait_group 2;" ::: "memory");
#elif !defined(BUG_NO_WAIT)
    asm volatile("cp.async.wait_group 1;" ::: "memory");
#endif
#ifdef BUG_DIVERGENT_BARRIER
    if (threadIdx.x < 40)
#endif
#ifdef BUG_BARRIER_BY_ONE_WARP
      if (warp > 0)
#endif
#ifndef BUG_NO_SYNC
        __syncthreads();
#endif
    const uint32_t stage = base + (step % 2) * 2 * TILE * ROW_BYTES;
#pragma unroll
    for (int inner = 0; inner < DEPTH / 16; inner++) {
      uint32_t fa[2][4], fb[2][4];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        ldmatrix(fa[i], stage + swizzled(warp_row + 16 * i + lane % 16, 2 * inner + lane / 16));
        int row = warp_column + 16 * i + lane % 8 + lane / 16 * 8;
        ldmatrix(fb[i], stage + TILE * ROW_BYTES + swizzled(row, 2 * inner + lane / 8 % 2));
      }
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) mma(total[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
    }
#ifndef BUG_NO_SECOND_SYNC
    __syncthreads();
#endif
  }
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int row = first_row + warp_row + 16 * i + lane / 4 + 8 * (e / 2),
            column = first_column + warp_column + 8 * j + lane % 4 * 2 + e % 2;
#ifdef BUG_WRITES_PAST_THE_END
        if (column < n)
#else
        if (row < m && column < n)
#endif
          c[static_cast<int64_t>(row) * n + column] = total[i][j][e];
      }
}
