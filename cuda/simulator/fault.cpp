#include "cuda/simulator/fault.hpp"

#include <utility>

namespace attnspec::cuda::simulator {

namespace {

std::string lines(const std::vector<Fault>& faults) {
  std::string result;
  for (const Fault& fault : faults) {
    if (!result.empty()) result += '\n';
    result += describe(fault);
  }
  return result;
}

}  // namespace

std::string to_string(const Index3& index) {
  return std::to_string(index.x) + "," + std::to_string(index.y) + "," + std::to_string(index.z);
}

const char* name(FaultKind kind) {
  switch (kind) {
    case FaultKind::out_of_bounds: return "out-of-bounds";
    case FaultKind::shared_out_of_bounds: return "shared-out-of-bounds";
    case FaultKind::misaligned: return "misaligned";
    case FaultKind::read_before_write: return "read-before-write";
    case FaultKind::read_before_arrival: return "read-before-arrival";
    case FaultKind::race: return "race";
    case FaultKind::unfenced: return "unfenced";
    case FaultKind::divergent_barrier: return "divergent-barrier";
    case FaultKind::deadlock: return "deadlock";
  }
  return "";
}

bool is_fatal(FaultKind kind) {
  return kind != FaultKind::read_before_write && kind != FaultKind::read_before_arrival && kind != FaultKind::race &&
         kind != FaultKind::unfenced;
}

std::string describe(const Fault& fault) {
  return fault.file + ":" + std::to_string(fault.line) + ": " + name(fault.kind) + ": " + fault.message + " (block " +
         to_string(fault.block) + " thread " + to_string(fault.thread) + ")";
}

KernelFaults::KernelFaults(std::vector<Fault> faults) : std::runtime_error(lines(faults)), faults_(std::move(faults)) {}

}  // namespace attnspec::cuda::simulator
