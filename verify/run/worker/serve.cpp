#include "verify/run/worker/serve.hpp"

#include <fcntl.h>

#include <exception>
#include <stdexcept>
#include <utility>
#include <vector>

#include "verify/run/foreign_calls.hpp"
#include "verify/run/worker/arena.hpp"
#include "verify/run/worker/channel.hpp"
#include "verify/run/worker/protocol.hpp"

namespace attnspec::verify {

namespace {

template <class Message>
void send(Channel& channel, const Message& message) {
  Writer writer;
  writer(message);
  channel.send(writer.bytes());
}

Reply answer(ForeignCalls& calls, const std::vector<std::byte>& request, const SharedMemory& memory,
             Problems& problems) {
  Reader reader(request, memory.bytes(), &problems);
  Ask ask{};
  TimingPlan plan;
  AnyCall call{{}, {}, problems.moba, problems.nsa};
  reader(ask, plan, call);
  try {
    Reply reply;
    if (ask == Ask::workspace_bytes) reply.workspace_bytes = calls.workspace_bytes(call);
    if (ask == Ask::time) reply.timing = calls.time(call, plan);
    if (ask == Ask::run) calls.run(call);
    return reply;
  } catch (const CallFailed& failure) {
    return {Outcome::failed, std::string(failure.what()) + "\n" + failure.more, 0, {}};
  } catch (const std::exception& error) {
    return {Outcome::could_not_run, error.what(), 0, {}};
  }
}

}  // namespace

void serve(const AttnspecKernel& kernel, const std::string& name, int socket, int memory) {
  fcntl(socket, F_SETFD, FD_CLOEXEC);
  fcntl(memory, F_SETFD, FD_CLOEXEC);
  const SharedMemory shared(memory);
  Hello hello;
  try {
    hello.declaration = declaration_of(kernel, name);
  } catch (const std::invalid_argument& error) {
    return refuse(socket, error.what());
  }
  Channel channel(socket);
  send(channel, hello);
  ForeignCalls calls(kernel);
  Problems problems;
  for (std::vector<std::byte> request; channel.receive(request) == Channel::Result::done;)
    send(channel, answer(calls, request, shared, problems));
}

void refuse(int socket, const std::string& why) {
  Channel channel(socket);
  send(channel, Hello{why, "", {}});
}

void offer(int socket, const std::string& names) {
  Channel channel(socket);
  send(channel, Hello{"", names, {}});
}

}  // namespace attnspec::verify
