// Pieces of work for a team of threads: each thread takes the next one when it is done with its last.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "threads.h"

namespace fastbert {

// One buffer a thread, cache lines of their own.
class ThreadScratch {
 public:
  ThreadScratch(int threads, std::size_t bytes)
      : bytes_((bytes + kLine - 1) / kLine * kLine),
        memory_(static_cast<std::uint8_t*>(
            ::operator new(bytes_* static_cast<std::size_t>(threads), std::align_val_t{kLine}))) {}

  void* of(int thread) const { return memory_.get() + bytes_ * static_cast<std::size_t>(thread); }

 private:
  static constexpr std::size_t kLine = 64;
  struct Free {
    void operator()(std::uint8_t* memory) const { ::operator delete(memory, std::align_val_t{kLine}); }
  };
  std::size_t bytes_;
  std::unique_ptr<std::uint8_t, Free> memory_;
};

// Calls function(piece, scratch) for the pieces 0 to count - 1. They are begun in that order, so a piece may wait for
// an earlier one: that one is done or under way.
template <class Function>
void for_each_piece(int threads, std::int64_t count, std::size_t scratch_bytes, const Function& function) {
  const ThreadScratch scratch(threads, scratch_bytes);
  std::atomic<std::int64_t> next{0};
  std::atomic<int> arrived{0};
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    void* own = scratch.of(arrived.fetch_add(1, std::memory_order_relaxed));
    while (true) {
      const std::int64_t piece = next.fetch_add(1, std::memory_order_relaxed);
      if (piece >= count) break;
      function(piece, own);
    }
  }
}

}  // namespace fastbert
