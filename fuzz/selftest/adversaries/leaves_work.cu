// A hostile kernel: the example kernel in a stream of its own, for which the stream of the call does not wait.
#define attnspec_kernel honest_kernel  // that of the example
#include "verify/examples/cuda/dense.cu"
#undef attnspec_kernel

static const char* hostile_dense(const AttnspecDense* p) {
  static cudaStream_t stream = [] {
    cudaStream_t created = nullptr;
    cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking);
    return created;
  }();
  AttnspecDense elsewhere = *p;
  elsewhere.call.stream = stream;
  return honest_kernel()->dense(&elsewhere);
}

extern "C" const AttnspecKernel* attnspec_kernel() {
  static AttnspecKernel hostile = *honest_kernel();
  hostile.name = "leaves_work";
  hostile.summary = "does its work beside the stream of the call";
  hostile.dense = hostile_dense;
  return &hostile;
}
