/* The judge as a C library, for kernels that live in the calling process, and the worker, for a judge that lives in
 * another: verify/python/attnspec/ is its user. */
#ifndef ATTNSPEC_C_API_H
#define ATTNSPEC_C_API_H

#include "verify/abi/kernel_abi.h"

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

/* The same for programs: `print` is given JSON, one object a line. First of each case, as it is judged:
 *
 *   kernel, case, verdict; reason, where there is one; rows_judged
 *   findings    of each: verdict, where ("o[seq=0,token=4,head=1,d=5]"), failure (the failure line, without its
 * command) directions  of each output whose errors add up: a line that says along what repeat      the command that
 * repeats the case
 *
 * Then of all: totals ("63 cases: 61 pass, 2 value-out-of-bound") and, each where there is something to say, limits
 * (which cases are left out), hint, over_declaration, lse_not_judged, laws_not_held. Where it could not run: error,
 * which says why. */
ATTNSPEC_EXPORT int attnspec_judge(const AttnspecKernel* kernel, const char* name, int level, const char* cases,
                                   AttnspecPrint print, void* context);

/* Serves a kernel to the judge that started this process, until it hangs up. socket, memory: the descriptors that it
 * left open. */
ATTNSPEC_EXPORT void attnspec_serve(const AttnspecKernel* kernel, const char* name, int socket, int memory);

/* Tells that judge in one line why there is no kernel. */
ATTNSPEC_EXPORT void attnspec_refuse(int socket, const char* why);

/* Tells that judge the names of the kernels of a file that has several, one a line. */
ATTNSPEC_EXPORT void attnspec_offer(int socket, const char* names);

#ifdef __cplusplus
}
#endif

#endif
