#include "threads.h"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace fastbert {
namespace {

std::atomic<bool> forked{false};

void mark_forked() { forked.store(true, std::memory_order_relaxed); }

constexpr std::int64_t kBytesWorthAThread = 32 * 1024;  // some 4 us of work; waking a thread costs about as much

}  // namespace

void install_fork_guard() { pthread_atfork(nullptr, nullptr, mark_forked); }

int region_threads(int requested, std::int64_t items, std::int64_t bytes_per_item) {
  if (forked.load(std::memory_order_relaxed)) return 1;
  // In floating point: expanded tensors may claim more work than 63 bits count.
  const double worthwhile = static_cast<double>(items) * static_cast<double>(bytes_per_item) / kBytesWorthAThread;
  const double most = std::min(worthwhile, static_cast<double>(items));
  return std::max(1, static_cast<int>(std::min(most, static_cast<double>(requested))));
}

const char* openmp_library() {
#if defined(_OPENMP)
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&omp_get_max_threads), &info) != 0 && info.dli_fname != nullptr)
    return info.dli_fname;
#endif
  return "";
}

}  // namespace fastbert
