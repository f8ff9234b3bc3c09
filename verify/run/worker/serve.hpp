// The worker's side: a kernel in this process, whose calls come from a judge in another.
#pragma once

#include <string>

struct AttnspecKernel;

namespace attnspec::verify {

/// Tells the judge what the kernel declares, and runs the calls that it asks for until it hangs up. Or tells it what is
/// wrong with the declaration. socket, memory: descriptors that the judge left open, which this closes.
void serve(const AttnspecKernel& kernel, const std::string& name, int socket, int memory);

/// Tells the judge in one line why there is no kernel.
void refuse(int socket, const std::string& why);

/// Tells the judge the names of the kernels, one a line, of a file that has several.
void offer(int socket, const std::string& names);

}  // namespace attnspec::verify
