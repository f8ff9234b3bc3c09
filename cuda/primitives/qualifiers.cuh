// The words of CUDA that kernel code is written with, for compilers that do not know them.
#pragma once

#ifndef __CUDACC__
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#endif
