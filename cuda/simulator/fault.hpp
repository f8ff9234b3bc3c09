// What a simulated kernel did wrong.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/primitives/shape.cuh"

namespace attnspec::cuda::simulator {

enum class FaultKind {
  out_of_bounds,         // an address in no registered buffer
  shared_out_of_bounds,  // an address in shared memory outside its objects, or not in shared memory where it must be
  misaligned,            // an address that is no multiple of the size of the access
  read_before_write,     // shared memory that nobody has written yet
  read_before_arrival,   // shared memory that a cp.async writes which nobody has waited for
  race,                  // two accesses to shared memory that nothing orders, one of them a write
  unfenced,              // a product of a warpgroup without the fence that its registers or its shared memory need
  divergent_barrier,     // threads that should meet and cannot: some wait elsewhere, or have exited
  deadlock,              // threads wait at named barriers for arrivals that never come
};

const char* name(FaultKind kind);

/// Whether the launch goes on after it.
bool is_fatal(FaultKind kind);

struct Fault {
  FaultKind kind;
  std::string file;  // where in the kernel's source; empty and 0 where unknown
  int line;
  std::string message;
  Index3 block, thread;  // who did it
};

/// "3,0,0"
std::string to_string(const Index3& index);

/// "FILE:LINE: race: MESSAGE (block 0,0,0 thread 3,0,0)"
std::string describe(const Fault& fault);

/// What a launch throws that found faults.
class KernelFaults : public std::runtime_error {
 public:
  explicit KernelFaults(std::vector<Fault> faults);
  const std::vector<Fault>& faults() const { return faults_; }

 private:
  std::vector<Fault> faults_;
};

}  // namespace attnspec::cuda::simulator
