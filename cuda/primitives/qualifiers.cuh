// The words of CUDA that kernel code is written with, for compilers that do not know them; and the namespace within
// attnspec::cuda of what is compiled twice, once for a GPU and once for the simulator.
#pragma once

#ifdef __CUDACC__
#define ATTNSPEC_TARGET gpu
#else
#define ATTNSPEC_TARGET simulated
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#endif
