// Kernels of others: what is refused and with which line, how limits are read, what becomes of a process that ends, and
// that every operator's structs carry a call there and back.
#include "verify/run/foreign_kernel.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <tuple>

#include "verify/abi/kernel_abi.h"
#include "verify/cases/levels.hpp"
#include "verify/judge/judge.hpp"
#include "verify/judge/report.hpp"
#include "verify/kernels.hpp"
#include "verify/selftest/testing.hpp"

namespace attnspec::verify {

namespace {

using namespace std::chrono_literals;

std::string library(const std::string& name) { return ATTNSPEC_FOREIGN_DIR "/" + name + ".so"; }

/// Why a library is not loaded, without the path that the line begins with.
std::string refusal(const std::string& path, Seconds timeout = kTimeout) {
  const std::string text = message_of<std::invalid_argument>([&] { load_kernel(path, timeout); });
  const std::string prefix = "kernel '" + path + "': ";
  EXPECT_EQ(text.substr(0, prefix.size()), prefix);
  EXPECT_EQ(text.find('\n'), std::string::npos);
  return text.substr(std::min(prefix.size(), text.size()));
}

TEST(LoadKernel, SaysInOneLineWhatIsWrongWithALibrary) {
  EXPECT_EQ(refusal(library("nowhere")), "there is no such file");
  EXPECT_EQ(refusal(library("no_symbol")), "does not export attnspec_kernel");
  EXPECT_EQ(refusal(library("returns_null")), "attnspec_kernel returned NULL");
  const TemporaryPath text("text.so");
  std::ofstream(text.path()) << std::string(1000, 'x');
  EXPECT_EQ(refusal(text.string()), "cannot be loaded: invalid ELF header");
}

TEST(LoadKernel, SurvivesALibraryThatCrashesEndsOrHangs) {
  EXPECT_EQ(refusal(library("crashes")), "crashed when loaded (signal 11, Segmentation fault)");
  EXPECT_EQ(refusal(library("ends")), "ended the process when loaded (exit code 3)");
  EXPECT_EQ(refusal(library("hangs"), 1s), "did not load within 1 s");
}

TEST(LoadKernel, GivesAKernelWhoseNameIsItsPath) {
  const Kernel kernel = load_kernel(library("refuses"));
  EXPECT_EQ(kernel.name, library("refuses"));
  EXPECT_EQ(kernel.summary, "broken: never right");
  EXPECT_EQ(kernel.operators, std::vector{Operator::dense});
  EXPECT_EQ(kernel.forward_only, kernel.operators);
  EXPECT_EQ(find_kernel(library("refuses")).name, library("refuses"));
  EXPECT_THROW(find_kernel(library("refuses") + "+fp32_out"), std::invalid_argument);
}

TEST(LoadKernel, MakesAFindingOfTheMessageThatACallReturned) {
  const CaseResult result = judge(load_kernel(library("refuses")), parse_case("dense(lens=5)"));
  EXPECT_EQ(result.verdict, Verdict::call_failed);
  ASSERT_EQ(result.findings.size(), 1u);
  EXPECT_EQ(result.findings.at(0).detail, "out of registers");
}

const char* do_nothing(const AttnspecDense*) { return nullptr; }

/// A declaration without fault.
AttnspecKernel minimal() {
  AttnspecKernel kernel{};
  kernel.struct_size = sizeof kernel;
  kernel.abi_version = ATTNSPEC_ABI_VERSION;
  kernel.device_type = kDLCPU;
  kernel.name = "minimal";
  kernel.summary = "does nothing";
  kernel.arithmetic = "rounded_sum+fp32_out";
  kernel.operators = ATTNSPEC_DENSE;
  kernel.dense = do_nothing;
  return kernel;
}

/// Why a declaration that is changed in one way is refused; empty when it is not.
template <class Change>
std::string refusal_of(const Change& change) {
  AttnspecKernel kernel = minimal();
  change(kernel);
  return message_of<std::invalid_argument>([&] { make_foreign_kernel(kernel, "x"); });
}

TEST(ForeignKernel, RefusesADeclarationThatIsWrong) {
  EXPECT_EQ(make_foreign_kernel(minimal(), "x").arithmetic, (reference::ArithmeticOptions{"rounded_sum", "fp32_out"}));
  EXPECT_EQ(refusal_of([](auto& k) { k.abi_version = 1; }), "kernel 'x': abi_version=1: this attnspec has version 4");
  EXPECT_EQ(refusal_of([](auto& k) { k.struct_size = 24; }),
            "kernel 'x': struct_size=24: in version 4 it is at least " + std::to_string(sizeof(AttnspecKernel)));
  EXPECT_EQ(refusal_of([](auto& k) { k.struct_size += 8; }), "");
  EXPECT_EQ(refusal_of([](auto& k) { k.device_type = kDLVulkan; }),
            "kernel 'x': device_type=7: is neither kDLCPU nor kDLCUDA");
  EXPECT_EQ(refusal_of([](auto& k) { k.name = nullptr; }), "kernel 'x': name is NULL");
  EXPECT_EQ(refusal_of([](auto& k) { k.summary = "one\ntwo"; }), "kernel 'x': summary is more than one line");
  EXPECT_EQ(refusal_of([](auto& k) { k.arithmetic = "exact"; }),
            "kernel 'x': arithmetic option 'exact': is none of " + arithmetic_names());
  EXPECT_EQ(refusal_of([](auto& k) { k.operators = 0; }), "kernel 'x': declares no operator");
  EXPECT_EQ(refusal_of([](auto& k) { k.operators = 2048; }), "kernel 'x': operators=0x800: has bits of no operator");
  EXPECT_EQ(refusal_of([](auto& k) { k.operators = ATTNSPEC_DENSE | ATTNSPEC_WINDOW; }),
            "kernel 'x': operator window is declared without a function");
  EXPECT_EQ(refusal_of([](auto& k) {
              k.operators = ATTNSPEC_MOBA_SELECT;
              k.moba_select = [](const AttnspecMobaSelect*) -> const char* { return nullptr; };
            }),
            "kernel 'x': operator moba_select needs the promise ATTNSPEC_EXPORTS_SELECTION");
}

AttnspecLimit at_most(std::int64_t largest) {
  AttnspecLimit limit{};
  limit.largest = largest;
  return limit;
}
AttnspecLimit multiple_of(std::int64_t number) {
  AttnspecLimit limit{};
  limit.multiple_of = number;
  return limit;
}

/// Why a kernel with this limit alone cannot do a case.
template <class T>
std::string unsupported(T AttnspecLimits::*limit, const std::type_identity_t<T>& value, const std::string& text) {
  AttnspecKernel kernel = minimal();
  kernel.limits.*limit = value;
  return make_foreign_kernel(kernel, "x").unsupported(parse_case(text)).value_or("");
}

TEST(ForeignKernel, ReadsItsLimits) {
  EXPECT_EQ(unsupported(&AttnspecLimits::dk, {}, "dense(lens=7,dk=192,dv=3,causal=0)"), "");
  EXPECT_EQ(unsupported(&AttnspecLimits::dtypes, ATTNSPEC_FP16, "dense()"), "dtype bf16 is none of its own");
  EXPECT_EQ(unsupported(&AttnspecLimits::gates, ATTNSPEC_GATE_TOP_K, "moba(gate=sink)"),
            "gate sink is none of its own");
  EXPECT_EQ(unsupported(&AttnspecLimits::phis, ATTNSPEC_PHI_MEAN, "nsa(phi=mlp)"), "phi mlp is none of its own");
  EXPECT_EQ(unsupported(&AttnspecLimits::only_causal, 1, "dense(causal=0)"), "causal 0: it is causal only");
  EXPECT_EQ(unsupported(&AttnspecLimits::only_equal_dims, 1, "dense(dk=4,dv=8)"), "it needs dk = dv, not 4 and 8");
  EXPECT_EQ(unsupported(&AttnspecLimits::only_equal_lengths, 1, "dense(q_lens=3)"),
            "q_lens 3: it needs as many queries as keys");
  EXPECT_EQ(unsupported(&AttnspecLimits::dk, at_most(128), "dense(dk=192)"), "dk 192 is above its limit 128");
  EXPECT_EQ(unsupported(&AttnspecLimits::dv, multiple_of(16), "dense(dv=40)"), "dv 40 is not a multiple of 16");
  EXPECT_EQ(unsupported(&AttnspecLimits::group, at_most(2), "dense(heads=6,kv_heads=2)"),
            "group 3 is above its limit 2");
  EXPECT_EQ(unsupported(&AttnspecLimits::block, at_most(32), "moba(block=64)"), "block 64 is above its limit 32");
  EXPECT_EQ(unsupported(&AttnspecLimits::top_k, at_most(4), "selected(top_k=5)"), "top_k 5 is above its limit 4");
  EXPECT_EQ(unsupported(&AttnspecLimits::top_k, at_most(4), "nsa(top_n=5)"), "top_n 5 is above its limit 4");
  EXPECT_EQ(unsupported(&AttnspecLimits::compress_block, multiple_of(32), "nsa(compress_block=48)"),
            "compress_block 48 is not a multiple of 32");
  EXPECT_EQ(unsupported(&AttnspecLimits::window_size, at_most(32), "window(window=33)"),
            "window 33 is above its limit 32");
}

/// Why a kernel with these limits is none.
template <class Set>
std::string refusal_of_limits(const Set& set) {
  return refusal_of([&](auto& k) { set(k.limits); });
}

TEST(ForeignKernel, IsRefusedWithLimitsThatAreWrong) {
  EXPECT_EQ(refusal_of_limits([](auto& l) { l.dk.largest = -1; }), "kernel 'x': limits.dk.largest=-1: is below 0");
  EXPECT_EQ(refusal_of_limits([](auto& l) { l.dk.smallest = 9, l.dk.largest = 8; }),
            "kernel 'x': limits.dk.smallest=9: is above largest=8");
  EXPECT_EQ(refusal_of_limits([](auto& l) { l.dtypes = 8; }), "kernel 'x': limits.dtypes=0x8: has unknown bits");
  EXPECT_EQ(refusal_of_limits([](auto& l) { l.scale = 3; }), "kernel 'x': limits.scale=3: must be in 0 .. 2");
  EXPECT_EQ(refusal_of_limits([](auto& l) { l.only_forced_blocks = 1; }),
            "kernel 'x': limits.local_blocks=0: is below 1");
  EXPECT_EQ(refusal_of_limits([](auto& l) { l.dk.set[0] = 64, l.dk.multiple_of = 48; }),
            "kernel 'x': its limits leave no case of dense: dk 64 is not a multiple of 48");
}

TEST(ForeignKernel, IsJudgedInsideItsLimits) {
  AttnspecKernel kernel = minimal();
  kernel.limits.dk.set[0] = 64;
  kernel.limits.sequences.largest = 1;
  kernel.limits.scale = ATTNSPEC_SCALE_DEFAULT;
  const Kernel made = make_foreign_kernel(kernel, "x");
  EXPECT_EQ(describe(made.limits), "dk 64, sequences <= 1, default scale");
}

/// What a kernel's message becomes in a finding.
std::string detail_of(const std::string& message) {
  static std::string said;
  said = message;
  AttnspecKernel kernel = minimal();
  kernel.dense = [](const AttnspecDense*) { return said.c_str(); };
  const CaseResult result = judge(make_foreign_kernel(kernel, "x"), parse_case("dense(lens=5)"));
  EXPECT_EQ(result.verdict, Verdict::call_failed);
  return result.findings.at(0).detail;
}

TEST(ForeignKernel, CutsItsMessagesToOneLine) {
  const std::string exact(kMaxFailureLine, 'x');
  EXPECT_EQ(detail_of(exact), exact);
  EXPECT_EQ(detail_of(exact + "x"), exact.substr(3) + "...");
  for (const std::size_t kept : {kMaxFailureLine - 3, kMaxFailureLine - 4}) {  // before a character of two bytes
    std::string text(kMaxFailureLine - 2 - kept, 'y');
    for (std::size_t i = 0; i < kMaxFailureLine; ++i) text += "\u00e9";
    EXPECT_EQ(detail_of(text), text.substr(0, kept) + "...");
  }
  EXPECT_EQ(detail_of(exact + "\nmore"), exact);
  EXPECT_EQ(detail_of("no\tmemory\rleft\nin the pool"), "no memory left");
}

/// "0x6", the number of tokens and rows of a tensor with data; "absent"; and the same where no tensor has data.
std::string describe(const DLTensor& tensor, bool has_data) {
  const bool is_absent = tensor.shape[0] == 0 && tensor.shape[1] == 0 && tensor.shape[2] == 0;
  EXPECT_EQ(tensor.data != nullptr, has_data && !is_absent);
  EXPECT_TRUE(is_absent || (tensor.shape[1] > 0 && tensor.shape[2] > 0));
  return is_absent ? "absent" : std::to_string(tensor.shape[0]) + "x" + std::to_string(tensor.shape[2]);
}
std::string describe(const AttnspecPhi& phi, bool has_data) {
  std::string text;
  for (const DLTensor* tensor : {&phi.position, &phi.w, &phi.w1, &phi.b1, &phi.w2, &phi.b2}) {
    if (!text.empty()) text += ' ';
    text += describe(*tensor, has_data);
  }
  return text;
}

/// What a kernel of NSA was given at last: parameters, and rows that may have no tokens.
struct Seen {
  std::string phi, d_phi, rows;

  bool operator==(const Seen&) const = default;
} seen, seen_before;

const char* see_compress(const AttnspecNsaCompress* p) {
  seen.phi = describe(p->phi, true), seen.rows = describe(p->rows, true);
  return nullptr;
}
const char* see_compress_backward(const AttnspecNsaCompressBackward* p) {
  seen.d_phi = describe(p->d_phi, true);
  return nullptr;
}
const char* see_nsa(const AttnspecNsa* p) {
  seen.phi = describe(p->phi_k, true) + ", " + describe(p->phi_v, true), seen.rows = describe(p->v_compressed, true);
  for (const AttnspecBranch* branch : {&p->compressed, &p->selected, &p->window})  // so that a backward follows
    for (const DLTensor* tensor : {&branch->o, &branch->lse})
      for (std::int64_t i = 0; i < tensor->shape[0]; ++i)
        std::memset(static_cast<char*>(tensor->data) + i * tensor->strides[0] * (tensor->dtype.bits / 8), 0,
                    static_cast<std::size_t>(tensor->shape[2] * (tensor->dtype.bits / 8)));
  for (std::int64_t token = 0; token < p->selection.shape[0]; ++token)
    static_cast<std::int32_t*>(p->selection.data)[token * p->selection.strides[0]] = 0;
  return nullptr;
}
const char* see_nsa_backward(const AttnspecNsaBackward* p) {
  seen.d_phi = describe(p->d_phi_k, true) + ", " + describe(p->d_phi_v, true);
  EXPECT_EQ(describe(p->forward->o, true), "absent");
  EXPECT_EQ(describe(p->d_compressed.dk, true), describe(p->forward->compressed.k, true));
  EXPECT_EQ(describe(p->d_selected.dv, true), describe(p->forward->selected.v, true));
  EXPECT_EQ(describe(p->d_window.dv, true), describe(p->forward->window.v, true));
  return nullptr;
}
std::int64_t see_without_data(std::uint32_t op, std::int32_t, const void* params) {
  if (op == ATTNSPEC_NSA_COMPRESS) {
    const auto& p = *static_cast<const AttnspecNsaCompress*>(params);
    seen_before.phi = describe(p.phi, false), seen_before.rows = describe(p.rows, false);
  } else {
    const auto& p = *static_cast<const AttnspecNsa*>(params);
    seen_before.phi = describe(p.phi_k, false) + ", " + describe(p.phi_v, false);
    seen_before.rows = describe(p.v_compressed, false);
  }
  return 0;
}

TEST(ForeignKernel, TellsAbsentTensorsFromThoseWithoutTokens) {
  AttnspecKernel kernel = minimal();
  kernel.operators = ATTNSPEC_NSA_COMPRESS | ATTNSPEC_NSA;
  kernel.nsa_compress = see_compress, kernel.nsa_compress_backward = see_compress_backward;
  kernel.nsa = see_nsa, kernel.nsa_backward = see_nsa_backward;
  kernel.workspace_bytes = see_without_data;
  const Kernel foreign = make_foreign_kernel(kernel, "x");
  for (const auto& [phi, of_keys, of_values] :
       {std::tuple<std::string, std::string, std::string>("mean", "absent absent absent absent absent absent",
                                                          "absent absent absent absent absent absent"),
        {"linear", "8x6 48x6 absent absent absent absent", "8x4 32x4 absent absent absent absent"},
        {"mlp,hidden=5", "8x6 absent 48x5 1x5 5x6 1x6", "8x4 absent 32x5 1x5 5x4 1x4"}}) {
    const std::string sizes = "dk=6,compress_block=8,compress_stride=4,phi=" + phi;
    for (const auto& [lens, rows] : {std::pair("3", 0), {"16", 3}}) {
      judge(foreign, parse_case("nsa_compress(" + sizes + ",lens=" + lens + ")"));
      EXPECT_EQ(seen, (Seen{of_keys, of_keys, std::to_string(rows) + "x6"})) << phi;
      EXPECT_EQ(seen_before, (Seen{of_keys, "", std::to_string(rows) + "x6"})) << phi;
      judge(foreign, parse_case("nsa(" + sizes + ",dv=4,dtype=fp32,lens=" + lens + ")"));
      const std::string both = of_keys + ", " + of_values;
      EXPECT_EQ(seen, (Seen{both, both, std::to_string(rows) + "x4"})) << phi;
      EXPECT_EQ(seen_before, (Seen{both, "", std::to_string(rows) + "x4"})) << phi;
    }
  }
}

/// The finding of a kernel that fails on every case.
Finding failure(const Kernel& kernel) {
  const CaseResult result = judge(kernel, parse_case("dense(lens=5)"));
  EXPECT_EQ(result.findings.size(), 1u);
  EXPECT_EQ(result.verdict, result.findings.at(0).verdict);
  return result.findings.at(0);
}

TEST(Worker, TurnsTheEndOfItsProcessIntoAFinding) {
  const Kernel crashes = load_kernel(library("crashes_in_call")), ends = load_kernel(library("ends_in_call")),
               hangs = load_kernel(library("hangs_in_call"), 1s);
  EXPECT_EQ(failure(crashes).verdict, Verdict::crash);
  EXPECT_EQ(failure(crashes).detail, "ended by signal SIGSEGV in the forward call");
  EXPECT_EQ(failure(ends).verdict, Verdict::crash);
  EXPECT_EQ(failure(ends).detail, "ended with exit code 0 in the forward call");
  EXPECT_EQ(failure(hangs).verdict, Verdict::hang);
  EXPECT_EQ(failure(hangs).detail, "did not return from the forward call within 1 s");
}

TEST(Worker, StartsAgainAfterACrash) {
  const Kernel kernel = load_kernel(library("crashes_for_some"));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(judge(kernel, parse_case("dense(lens=21)")).verdict, Verdict::crash);
    EXPECT_EQ(judge(kernel, parse_case("dense(lens=20)")).verdict, Verdict::pass);
  }
}

/// What same_place says of a call of these sizes.
bool is_in_the_same_place(const Kernel& kernel, const std::vector<std::int64_t>& offsets) {
  const std::int64_t tokens = offsets.back();
  const reference::MobaProblem problem{{offsets, offsets, 1, 1, 8, 8, 1, true}};
  const auto tensor = [&](std::int64_t dim) {
    return HostTensor(Format::fp32, Layout::strided, tokens, 1, dim, kernel.memory);
  };
  HostTensor q = tensor(8), k = tensor(8), v = tensor(8), o = tensor(8), lse = tensor(1);
  const reference::NsaProblem nsa;
  AnyCall call = blank_call(Operator::dense, false, problem, nsa);
  for (const auto& [name, memory] : {std::pair{"q", &q}, {"k", &k}, {"v", &v}, {"o", &o}, {"lse", &lse}})
    call[name] = memory->view();
  kernel.call(call);
  return o.view().load(0, 0, 0) == 1;
}

TEST(Worker, GivesCallsOfTheSameShapesTheSamePlaces) {
  const Kernel kernel = load_kernel(library("same_place"));
  EXPECT_FALSE(is_in_the_same_place(kernel, {0, 5, 9}));
  EXPECT_TRUE(is_in_the_same_place(kernel, {0, 5, 9}));
  EXPECT_TRUE(is_in_the_same_place(kernel, {0, 1, 9}));  // other offsets where the last ones were
  EXPECT_FALSE(is_in_the_same_place(kernel, {0, 5, 90}));
}

/// The model kernel with every operator.
Kernel all_of_the_model() {
  Kernel all = find_kernel("model:moba");
  all.operators.assign(std::begin(kOperators), std::end(kOperators));
  return all;
}

TEST(ForeignKernel, PromisesBitsInOrder) {
  AttnspecKernel kernel = minimal();
  const auto promised = [&](std::uint32_t promises) {
    kernel.promises = promises;
    const Kernel foreign = make_foreign_kernel(kernel, "x");
    return std::pair(foreign.equal_bits, foreign.equal_bits_backward);
  };
  EXPECT_EQ(promised(0), std::pair(EqualBits::none, EqualBits::none));
  const std::uint32_t all = ATTNSPEC_DETERMINISTIC | ATTNSPEC_ROW_INDEPENDENT | ATTNSPEC_BATCH_INVARIANT;
  EXPECT_EQ(promised(all), std::pair(EqualBits::any_batch, EqualBits::any_batch));
  EXPECT_EQ(promised(all | ATTNSPEC_UNORDERED_BACKWARD), std::pair(EqualBits::any_batch, EqualBits::none));
  EXPECT_EQ(refusal_of([](auto& k) { k.promises = ATTNSPEC_ROW_INDEPENDENT; }),
            "kernel 'x': promise ATTNSPEC_ROW_INDEPENDENT needs ATTNSPEC_DETERMINISTIC");
  EXPECT_EQ(refusal_of([](auto& k) { k.promises = ATTNSPEC_DETERMINISTIC | ATTNSPEC_BATCH_INVARIANT; }),
            "kernel 'x': promise ATTNSPEC_BATCH_INVARIANT needs ATTNSPEC_ROW_INDEPENDENT");
}

TEST(Worker, CarriesLimits) {
  const Kernel kernel = load_kernel(library("tiled"));
  EXPECT_EQ(describe(kernel.limits), "dk 64 128, dv 64 128, block 64, group 16, bf16, causal, dk = dv");
  for (const Operator op : kernel.operators)
    EXPECT_EQ(kernel.unsupported(level_cases(op, 1, kernel.limits).front()), std::nullopt);
}

/// Every sixteenth case of level 1 gives the mirror, which is the model kernel behind the C interface, what it gives
/// the model kernel: the same rows with the same errors.
TEST(Worker, CarriesEveryOperatorThereAndBack) {
  const Kernel kernel = load_kernel(library("mirror")), model = all_of_the_model();
  EXPECT_EQ(kernel.forward_only,
            (std::vector{Operator::moba_select, Operator::msa_select, Operator::dsa_select, Operator::qsa_select}));
  for (const Operator op : kernel.operators) {
    const std::vector<Case> cases = level_cases(op, 1);
    for (std::size_t i = 0; i < cases.size(); i += 16) {
      CaseResult expected = judge(model, cases[i]), observed = judge(kernel, cases[i]);
      expected.kernel = observed.kernel = "";
      EXPECT_EQ(details(observed), details(expected)) << print(cases[i]);
    }
  }
}

}  // namespace

}  // namespace attnspec::verify
