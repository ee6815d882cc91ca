// How many OpenMP threads a kernel may use.
#pragma once

#include <cstdint>

namespace fastbert {

// Registers the fork guard; called once, when the extension is loaded.
void install_fork_guard();

// The thread count for one parallel region over `items` independent pieces of about `bytes_per_item` bytes of work: at
// most `requested`, fewer where a thread would get less than it costs to wake, and 1 in a forked child, whose parallel
// regions would wait for ever for threads that only the parent has.
int region_threads(int requested, std::int64_t items, std::int64_t bytes_per_item);

// The file of the OpenMP runtime that this extension's calls reach, or "" when it was built without OpenMP.
const char* openmp_library();

}  // namespace fastbert
