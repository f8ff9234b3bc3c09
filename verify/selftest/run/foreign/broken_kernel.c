/* Libraries that are wrong in one way each, which -DBROKEN_... chooses. */
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>

#include "verify/abi/kernel_abi.h"

#if defined(BROKEN_CRASHES)
__attribute__((constructor)) static void crash(void) { raise(SIGSEGV); }
#elif defined(BROKEN_ENDS)
__attribute__((constructor)) static void end(void) { exit(3); }
#elif defined(BROKEN_HANGS)
__attribute__((constructor)) static void hang(void) {
  for (volatile int i = 0;; ++i) continue;
}
#endif

static const char* dense(const AttnspecDense* p) {
  (void)p;
#if defined(BROKEN_CRASHES_IN_CALL)
  raise(SIGSEGV);
#elif defined(BROKEN_ENDS_IN_CALL)
  exit(0);
#elif defined(BROKEN_HANGS_IN_CALL)
  for (volatile int i = 0;; ++i) continue;
#endif
  return "out of registers";
}

static const AttnspecKernel kernel = {
    .struct_size = sizeof(AttnspecKernel),
    .abi_version = ATTNSPEC_ABI_VERSION,
    .device_type = kDLCPU,
    .name = "broken",
    .summary = "never right",
    .arithmetic = "",
    .operators = ATTNSPEC_DENSE,
    .dense = dense,
};

#if defined(BROKEN_NO_SYMBOL)
const AttnspecKernel* another_function(void);
const AttnspecKernel* another_function(void) { return &kernel; }
#elif defined(BROKEN_RETURNS_NULL)
const AttnspecKernel* attnspec_kernel(void) {
  (void)kernel;
  return NULL;
}
#else
const AttnspecKernel* attnspec_kernel(void) { return &kernel; }
#endif
