/* The judge as a C library, for kernels that live in the calling process: verify/python/attnspec.py is its user. */
#ifndef ATTNSPEC_C_API_H
#define ATTNSPEC_C_API_H

#include "verify/kernel_abi.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Receives text of one or more lines, each with its end. */
typedef void (*AttnspecPrint)(const char* text, void* context);

/* Judges a kernel, whose name is `name`, on all its operators: on the cases of a level (1 or 2) or, unless `cases` is
 * NULL, on those, separated by line ends. Failure lines and then the table go to `print`; with `details` everything
 * that was judged of each case, too.
 *
 * Returns 0: all judged and passed, 1: a finding, 2: could not run, `print` was given one line that says why, 3:
 * inconclusive. */
ATTNSPEC_EXPORT int attnspec_check(const AttnspecKernel* kernel, const char* name, int level, const char* cases,
                                   int details, AttnspecPrint print, void* context);

#ifdef __cplusplus
}
#endif

#endif
