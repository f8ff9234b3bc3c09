// Which kernels ran on the GPU, and for how long, as CUPTI records it.
#include "cuda/timing.hpp"

#ifdef ATTNSPEC_CUPTI_LIBRARY
#include <cupti.h>
#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <utility>
#endif

namespace attnspec::cuda {

#ifdef ATTNSPEC_CUPTI_LIBRARY

namespace {

/// The functions of CUPTI's library, which is loaded when the first trace is taken: many machines with a GPU have none.
struct Cupti {
  decltype(&cuptiActivityRegisterCallbacks) register_callbacks;
  decltype(&cuptiActivityEnable) enable;
  decltype(&cuptiActivityDisable) disable;
  decltype(&cuptiActivityFlushAll) flush;
  decltype(&cuptiActivityGetNextRecord) next_record;
};

std::mutex finished_mutex;
std::vector<KernelTime> finished;  // CUPTI's callbacks have nowhere else to put it

/// "attend_blocks" of "void attnspec::(anonymous namespace)::attend_blocks<float>(float*)", as it is mangled.
std::string function_name(const char* mangled) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> text(abi::__cxa_demangle(mangled, nullptr, nullptr, &status),
                                                         &std::free);
  std::string name = status == 0 ? text.get() : mangled;
  const std::string unnamed = "(anonymous namespace)::";
  for (std::size_t at; (at = name.find(unnamed)) != std::string::npos;) name.erase(at, unnamed.size());
  name.resize(std::min(name.size(), name.find_first_of("<(")));
  const std::size_t before = name.find_last_of(": ");
  return before == std::string::npos ? name : name.substr(before + 1);
}

constexpr std::size_t kBufferBytes = std::size_t{1} << 20;

void CUPTIAPI give_buffer(std::uint8_t** buffer, std::size_t* size, std::size_t* max_records) {
  *buffer = static_cast<std::uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *size = *buffer == nullptr ? 0 : kBufferBytes;
  *max_records = 0;
}

const Cupti* cupti();

void CUPTIAPI take_buffer(CUcontext, std::uint32_t, std::uint8_t* buffer, std::size_t, std::size_t size) {
  const std::lock_guard lock(finished_mutex);
  for (CUpti_Activity* record = nullptr; cupti()->next_record(buffer, size, &record) == CUPTI_SUCCESS;) {
    if (record->kind != CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) continue;
    const auto& kernel = *reinterpret_cast<const CUpti_ActivityKernel10*>(record);
    finished.push_back({function_name(kernel.name), static_cast<double>(kernel.end - kernel.start) / 1e6});
  }
  std::free(buffer);
}

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

std::optional<Cupti> load_cupti() {
  void* library = dlopen("libcupti.so." ATTNSPEC_CUPTI_VERSION, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) library = dlopen(ATTNSPEC_CUPTI_LIBRARY, RTLD_NOW | RTLD_LOCAL);
  Cupti c{};
  if (library == nullptr || !find(library, "cuptiActivityRegisterCallbacks", c.register_callbacks) ||
      !find(library, "cuptiActivityEnable", c.enable) || !find(library, "cuptiActivityDisable", c.disable) ||
      !find(library, "cuptiActivityFlushAll", c.flush) || !find(library, "cuptiActivityGetNextRecord", c.next_record) ||
      c.register_callbacks(give_buffer, take_buffer) != CUPTI_SUCCESS)
    return std::nullopt;
  return c;
}

/// nullptr where there is none.
const Cupti* cupti() {
  static const std::optional<Cupti> loaded = load_cupti();
  return loaded ? &*loaded : nullptr;
}

}  // namespace

std::vector<KernelTime> trace_kernels(const std::function<void()>& run) {
  if (cupti() == nullptr || cupti()->enable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) != CUPTI_SUCCESS) return {};
  const auto stop = [] {
    cupti()->flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
    cupti()->disable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
    const std::lock_guard lock(finished_mutex);
    return std::exchange(finished, {});
  };
  try {
    run();
  } catch (...) {
    stop();
    throw;
  }
  return stop();
}

#else

std::vector<KernelTime> trace_kernels(const std::function<void()>&) { return {}; }

#endif

}  // namespace attnspec::cuda
