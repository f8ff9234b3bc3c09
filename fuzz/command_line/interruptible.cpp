#include "fuzz/command_line/interruptible.hpp"

namespace attnspec::fuzz {

namespace {

volatile std::sig_atomic_t was_signalled = 0;

}  // namespace

Interruptible::Interruptible() {
  was_signalled = 0;
  Action action{};
  action.sa_handler = [](int) { was_signalled = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, &interrupt_);
  sigaction(SIGTERM, &action, &terminate_);
}

Interruptible::~Interruptible() {
  sigaction(SIGINT, &interrupt_, nullptr);
  sigaction(SIGTERM, &terminate_, nullptr);
}

bool is_interrupted() { return was_signalled != 0; }

}  // namespace attnspec::fuzz
