// The table of kernels that this build contains, by the names that plans use.
//
// Every instance's source says FASTBERT_REGISTER(name) for each kernel that it defines, so the table holds what was
// compiled and nothing else. Host code only: the compiler's device passes see nothing of it.
#pragma once

namespace fastbert {
namespace cuda {

struct Registration {
  Registration(const char* name, const void* kernel);
};

}  // namespace cuda
}  // namespace fastbert

#ifdef __CUDA_ARCH__
#define FASTBERT_REGISTER(kernel) static_assert(true)
#else
#define FASTBERT_REGISTER(kernel) FASTBERT_REGISTER_EXPANDED(kernel)
#define FASTBERT_REGISTER_EXPANDED(kernel)                                                                     \
  namespace {                                                                                                  \
  const ::fastbert::cuda::Registration kRegistration_##kernel(#kernel, reinterpret_cast<const void*>(kernel)); \
  }                                                                                                            \
  static_assert(true)
#endif
