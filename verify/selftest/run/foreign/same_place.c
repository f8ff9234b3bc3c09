/* Not attention: tells in o whether a call finds everything where the last one did. */
#include <stddef.h>

#include "verify/abi/kernel_abi.h"

static const char* dense(const AttnspecDense* p) {
  static const void* last[4];
  const void* now[4] = {p->q.data, p->o.data, p->call.q_offsets, p->call.k_offsets};
  float same = 1;
  for (int i = 0; i < 4; ++i) {
    if (now[i] != last[i]) same = 0;
    last[i] = now[i];
  }
  *(float*)p->o.data = same;
  return NULL;
}

static const AttnspecKernel kernel = {
    .struct_size = sizeof(AttnspecKernel),
    .abi_version = ATTNSPEC_ABI_VERSION,
    .device_type = kDLCPU,
    .name = "same_place",
    .summary = "compares addresses",
    .arithmetic = "fp32_out",
    .operators = ATTNSPEC_DENSE,
    .dense = dense,
};

const AttnspecKernel* attnspec_kernel(void) { return &kernel; }
