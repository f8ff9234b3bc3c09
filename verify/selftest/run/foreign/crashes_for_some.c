/* The C example, but that its dense forward crashes where there are more than 20 keys. */
#include <signal.h>

#define attnspec_kernel example
#include "verify/examples/c/dense_moba.c"
#undef attnspec_kernel

static const char* crashing_dense(const AttnspecDense* p) {
  if (p->k.shape[0] > 20) raise(SIGSEGV);
  return dense(p);
}

ATTNSPEC_EXPORT const AttnspecKernel* attnspec_kernel(void);
const AttnspecKernel* attnspec_kernel(void) {
  static AttnspecKernel changed;
  changed = *example();
  changed.operators = ATTNSPEC_DENSE;
  changed.dense = crashing_dense;
  return &changed;
}
