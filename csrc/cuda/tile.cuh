// Tiles of 16-bit numbers in shared memory, how they get there, and how the tensor core's fragments are read from them.
//
// A tile is Rows x Columns, row after row. Rows are cut into chunks of 16 bytes, and chunk c of row r lies where chunk
// c ^ (r % 8) would (rows of an odd multiple of 64 bytes: c ^ (r / 2 % 4)), so that the 8 rows of an ldmatrix meet no
// bank twice.
#pragma once

#include <cstdint>

#include "ptx.cuh"

namespace fastbert {
namespace cuda {
namespace {

constexpr int kChunk = 8;  // numbers in 16 bytes

template <int Rows, int Columns>
struct SharedTile {
  static_assert(Columns % 32 == 0);
  static constexpr int rows = Rows, columns = Columns;
  static constexpr int chunks = Columns / kChunk;  // of a row
  static constexpr int bytes = Rows * Columns * 2;
  static constexpr int turns = Columns % 64 == 0 ? 8 : 4;  // chunks change places among so many

  std::uint32_t base;  // shared address, a multiple of 128

  // The tile without its first rows, a multiple of 8.
  __device__ __forceinline__ SharedTile below(int rows) const { return {base + rows * (Columns * 2)}; }

  __device__ __forceinline__ std::uint32_t at(int row, int chunk) const {
    const int turn = Columns % 64 == 0 ? row % 8 : row / 2 % 4;
    // Whole groups of `turns` apart, so that the compiler sees constants in what they add.
    return base + row * (Columns * 2) + chunk / turns * (turns * 16) + (chunk % turns ^ turn) * 16;
  }

  // How much further (row + down, chunk + across) lies than (row, chunk): down a multiple of 8, across one of `turns`.
  __device__ __forceinline__ static constexpr int distance(int down, int across) {
    return down * Columns * 2 + across * 16;
  }
};

// Rows of one head of a tensor.
struct GlobalRows {
  const std::uint16_t* data;  // row 0
  std::int64_t stride;        // in numbers
  int columns;                // a multiple of 8
};

// How the 16-byte chunks of a tile are handed out to threads: thread t begins at (row, chunk), and its others lie at
// the same constant distances from there in every thread.
template <int Threads, class Tile>
struct ChunkShare {
  static constexpr int kAcross = Threads / Tile::rows > Tile::turns ? Threads / Tile::rows : Tile::turns;
  static constexpr int kDown = Threads / kAcross;
  static_assert(Tile::chunks % kAcross == 0 && Tile::rows % kDown == 0);

  int row, chunk;

  __device__ __forceinline__ explicit ChunkShare(int thread) {
    const unsigned place = static_cast<unsigned>(thread) % Threads;  // so that the compiler knows its bounds
    row = static_cast<int>(place / kAcross), chunk = static_cast<int>(place % kAcross);
  }

  // Calls visit(down, across) for each of them, row after row.
  template <class Visit>
  __device__ __forceinline__ void for_each(const Visit& visit) const {
#pragma unroll
    for (int down = 0; down < Tile::rows; down += kDown) {
#pragma unroll
      for (int across = 0; across < Tile::chunks; across += kAcross) visit(down, across);
    }
  }
};

// Copies consecutive tiles of one tensor. Between two of them a thread remembers one address: where its next chunk
// lies.
template <int Threads, class Tile>
class TileStream {
  using Share = ChunkShare<Threads, Tile>;
  static_assert(Share::kDown % 8 == 0);

 public:
  // From row `first` on.
  __device__ __forceinline__ TileStream(const GlobalRows& source, int first) : step(Share::kDown * source.stride) {
    const Share share(static_cast<int>(threadIdx.x));
    next = source.data + (first + share.row) * source.stride + share.chunk * kChunk;
    columns = source.columns - share.chunk * kChunk;
  }

  // Begins to copy the next rows; those that are not alive(row, down) = whether row + down of the tile is, and columns
  // past the end, become zeros without being read. Belongs to the group of the next commit_copies().
  template <class Alive>
  __device__ __forceinline__ void copy_next(const Tile& tile, const Alive& alive) {
    const Share share(static_cast<int>(threadIdx.x));
    const std::uint32_t to = tile.at(share.row, share.chunk);
#pragma unroll
    for (int down = 0; down < Tile::rows; down += Share::kDown) {
#pragma unroll
      for (int across = 0; across < Tile::chunks; across += Share::kAcross) {
        const bool present = alive(share.row, down) && across * kChunk < columns;
        copy_async(to + Tile::distance(down, across), next + across * kChunk, present);
      }
      next += step;
      forget_origin(next);  // or each row's address would be computed anew, as a multiple of the stride
    }
  }

 private:
  const std::uint16_t* next;
  std::int64_t step;
  int columns;
};

// The same of one tile: rows first to first + Rows - 1, which are copied where alive(row of the tensor).
template <int Threads, class Tile, class Alive>
__device__ __forceinline__ void load_tile(const Tile& tile, const GlobalRows& source, int first, const Alive& alive) {
  TileStream<Threads, Tile>(source, first).copy_next(tile, [&](int row, int down) {
    return alive(first + row + down);
  });
}

// 8 numbers of either type in shared memory: their signs turned, or all of them zero.
__device__ __forceinline__ void turn_signs(std::uint32_t address, bool keep) {
  constexpr std::uint32_t kSigns = 0x80008000u;
  uint4 x = load_shared(address);
  x = keep ? uint4{x.x ^ kSigns, x.y ^ kSigns, x.z ^ kSigns, x.w ^ kSigns} : uint4{0, 0, 0, 0};
  store_shared(address, x);
}

// From the address of a place to another place, `rows` (a multiple of 8) below and `columns` to the right: a multiple
// of 8 if the place lies in the first chunk of its row, of 16 if in the first two.
template <class Tile>
__device__ __forceinline__ SharedPlace moved(std::uint32_t address, int rows, int columns) {
  constexpr int kTurned = Tile::turns * 16 - 1;  // bytes among which chunks change places
  return {address, static_cast<std::uint32_t>(columns * 2 & kTurned),
          static_cast<std::uint32_t>(rows * (Tile::columns * 2) + (columns * 2 & ~kTurned))};
}

// A (16 x 16): rows and columns of the tile from (row, column) on.
template <class Tile>
__device__ __forceinline__ void load_a(std::uint32_t (&a)[4], const Tile& tile, int row, int column) {
  const int lane = threadIdx.x % 32;
  ldmatrix(a, moved<Tile>(tile.at(lane % 16, lane / 16), row, column));
}

// A is the transpose of the tile's rows from `row` on and columns from `column` on: A[i][s] = tile[row + s][column +
// i].
template <class Tile>
__device__ __forceinline__ void load_a_transposed(std::uint32_t (&a)[4], const Tile& tile, int row, int column) {
  const int lane = threadIdx.x % 32;
  ldmatrix_transposed(a, moved<Tile>(tile.at(lane % 8 + lane / 16 * 8, lane / 8 % 2), row, column));
}

// Two B (16 x 8) side by side whose columns are rows of the tile: B[s][j] = tile[row + j][column + s], j to 15. The
// first one is registers 0 and 1.
template <class Tile>
__device__ __forceinline__ void load_b_of_columns(std::uint32_t (&b)[4], const Tile& tile, int row, int column) {
  const int lane = threadIdx.x % 32;
  ldmatrix(b, moved<Tile>(tile.at(lane % 8 + lane / 16 * 8, lane / 8 % 2), row, column));
}

// Two B (16 x 8) side by side whose rows are rows of the tile: B[s][j] = tile[row + s][column + j], j to 15.
template <class Tile>
__device__ __forceinline__ void load_b_of_rows(std::uint32_t (&b)[4], const Tile& tile, int row, int column) {
  const int lane = threadIdx.x % 32;
  ldmatrix_transposed(b, moved<Tile>(tile.at(lane % 16, lane / 16), row, column));
}

}  // namespace
}  // namespace cuda
}  // namespace fastbert
