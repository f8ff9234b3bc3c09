// Kernels of others: what is refused and with which line, how limits are read, and that every operator's structs carry
// a call there and back.
#include "verify/foreign_kernel.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "verify/judge.hpp"
#include "verify/kernel_abi.h"
#include "verify/levels.hpp"
#include "verify/report.hpp"
#include "verify/selftest/testing.hpp"

namespace attnspec::verify {

namespace {

using namespace std::chrono_literals;

std::string library(const std::string& name) { return ATTNSPEC_FOREIGN_DIR "/" + name + ".so"; }

/// Why a library is not loaded, without the path that the line begins with.
std::string refusal(const std::string& path, std::chrono::milliseconds patience = 10s) {
  const std::string text = message_of<std::invalid_argument>([&] { load_kernel(path, patience); });
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
  EXPECT_EQ(refusal(library("hangs"), 300ms), "did not load within 0.3 s");
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
  EXPECT_EQ(result.findings[0].detail, "kernel '" + library("refuses") + "': out of registers");
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
  kernel.departures = "rounded_sum+fp32_out";
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
  EXPECT_EQ(make_foreign_kernel(minimal(), "x").departures, (reference::Departures{"rounded_sum", "fp32_out"}));
  EXPECT_EQ(refusal_of([](auto& k) { k.abi_version = 2; }), "kernel 'x': abi_version=2: this attnspec has version 1");
  EXPECT_EQ(refusal_of([](auto& k) { k.struct_size = 24; }),
            "kernel 'x': struct_size=24: in version 1 it is at least " + std::to_string(sizeof(AttnspecKernel)));
  EXPECT_EQ(refusal_of([](auto& k) { k.struct_size += 8; }), "");
  EXPECT_EQ(refusal_of([](auto& k) { k.device_type = kDLVulkan; }),
            "kernel 'x': device_type=7: is neither kDLCPU nor kDLCUDA");
  EXPECT_EQ(refusal_of([](auto& k) { k.name = nullptr; }), "kernel 'x': name is NULL");
  EXPECT_EQ(refusal_of([](auto& k) { k.summary = "one\ntwo"; }), "kernel 'x': summary is more than one line");
  EXPECT_EQ(refusal_of([](auto& k) { k.departures = "exact"; }),
            "kernel 'x': departure 'exact': is none of fp32_weights, rounded_sum, normalise_first, rounded_means, "
            "rounded_partials, fp32_out, fused_branches");
  EXPECT_EQ(refusal_of([](auto& k) { k.operators = 0; }), "kernel 'x': declares no operator");
  EXPECT_EQ(refusal_of([](auto& k) { k.operators = 256; }), "kernel 'x': operators=0x100: has bits of no operator");
  EXPECT_EQ(refusal_of([](auto& k) { k.operators = ATTNSPEC_DENSE | ATTNSPEC_WINDOW; }),
            "kernel 'x': operator window is declared without a function");
  EXPECT_EQ(refusal_of([](auto& k) {
              k.operators = ATTNSPEC_MOBA_SELECT;
              k.moba_select = [](const AttnspecMobaSelect*) -> const char* { return nullptr; };
            }),
            "kernel 'x': operator moba_select needs the promise ATTNSPEC_EXPORTS_SELECTION");
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
  EXPECT_EQ(unsupported(&AttnspecLimits::gates, ATTNSPEC_GATE_TOP_K, "moba(gate=sink)"), "the gate is none of its own");
  EXPECT_EQ(unsupported(&AttnspecLimits::phis, ATTNSPEC_PHI_MEAN, "nsa(phi=mlp)"), "phi is none of its own");
  EXPECT_EQ(unsupported(&AttnspecLimits::only_causal, 1, "dense(causal=0)"), "it is causal only");
  EXPECT_EQ(unsupported(&AttnspecLimits::only_equal_dims, 1, "dense(dk=4,dv=8)"), "it needs dk = dv, not 4 and 8");
  EXPECT_EQ(unsupported(&AttnspecLimits::only_equal_lengths, 1, "dense(q_lens=3)"), "it needs as many queries as keys");
  EXPECT_EQ(unsupported(&AttnspecLimits::dk, {128, 0}, "dense(dk=192)"), "dk 192 is above its limit 128");
  EXPECT_EQ(unsupported(&AttnspecLimits::dv, {0, 16}, "dense(dv=40)"), "dv 40 is not a multiple of 16");
  EXPECT_EQ(unsupported(&AttnspecLimits::group, {2, 0}, "dense(heads=6,kv_heads=2)"), "group 3 is above its limit 2");
  EXPECT_EQ(unsupported(&AttnspecLimits::block, {32, 0}, "moba(block=64)"), "block 64 is above its limit 32");
  EXPECT_EQ(unsupported(&AttnspecLimits::top_k, {4, 0}, "selected(top_k=5)"), "top_k 5 is above its limit 4");
  EXPECT_EQ(unsupported(&AttnspecLimits::top_k, {4, 0}, "nsa(top_n=5)"), "top_n 5 is above its limit 4");
  EXPECT_EQ(unsupported(&AttnspecLimits::compress_block, {0, 32}, "nsa(compress_block=48)"),
            "compress_block 48 is not a multiple of 32");
  EXPECT_EQ(unsupported(&AttnspecLimits::window, {32, 0}, "window(window=33)"), "window 33 is above its limit 32");
}

// ---- The mirror: the model kernel, behind the C interface ----

TensorView view(const DLTensor& t) {
  const Format format = t.dtype.bits == 32 ? Format::fp32 : t.dtype.code == kDLBfloat ? Format::bf16 : Format::fp16;
  return {t.data, format, t.shape[0], t.shape[1], t.shape[2], t.strides[0], t.strides[1]};
}
SelectionView selection(const DLTensor& t) {
  return {static_cast<std::int32_t*>(t.data), t.shape[0], t.shape[1], t.shape[2]};
}
PhiTensors<TensorView> phi(const AttnspecPhi& p) {
  return {view(p.position), view(p.w), view(p.w1), view(p.b1), view(p.w2), view(p.b2)};
}

reference::AttentionProblem attention(const AttnspecCall& call, const DLTensor& q, const DLTensor& k, std::int64_t dv) {
  const auto offsets = [&](const std::int64_t* begin) { return std::vector(begin, begin + call.num_sequences + 1); };
  return {offsets(call.q_offsets), offsets(call.k_offsets), q.shape[1], k.shape[1], q.shape[2], dv, call.scale,
          call.causal != 0};
}

/// All of the problem but phi.
reference::NsaProblem nsa_problem(const AttnspecNsaSizes& sizes, const reference::AttentionProblem& problem) {
  reference::NsaProblem nsa;
  nsa.attention = problem;
  nsa.compress_block = sizes.compress_block, nsa.compress_stride = sizes.compress_stride;
  nsa.block = sizes.block, nsa.top_n = sizes.top_n;
  nsa.initial_blocks = sizes.initial_blocks, nsa.local_blocks = sizes.local_blocks;
  nsa.window = sizes.window;
  return nsa;
}

void set_phi(const AttnspecNsaSizes& sizes, const AttnspecPhi& parameters, reference::NsaProblem& nsa) {
  nsa.phi = sizes.phi == ATTNSPEC_PHI_MEAN     ? reference::Phi::mean
            : sizes.phi == ATTNSPEC_PHI_LINEAR ? reference::Phi::linear
                                               : reference::Phi::mlp;
  nsa.activation = sizes.activation == ATTNSPEC_RELU   ? reference::Activation::relu
                   : sizes.activation == ATTNSPEC_SILU ? reference::Activation::silu
                                                       : reference::Activation::gelu;
  nsa.hidden = parameters.b1.shape[2];
  nsa.shared_phi = parameters.position.shape[1] == 1;
}

/// A call of an operator that attends or selects, in our own terms.
struct Mirrored {
  reference::MobaProblem moba;
  reference::NsaProblem nsa;
  ForwardCall call;

  template <class Params>
  Mirrored(Operator op, const Params& p) : call{op, moba, nsa, view(p.q), view(p.k), {}, {}, {}, {}, {}} {
    if constexpr (requires { p.v; }) {
      call.v = view(p.v), call.o = view(p.o), call.lse = view(p.lse);
      moba.attention = attention(p.call, p.q, p.k, p.v.shape[2]);
    } else {
      moba.attention = attention(p.call, p.q, p.k, 1);
    }
    nsa.attention = moba.attention;
    if constexpr (requires { p.block; }) moba.block = p.block;
    if constexpr (requires { p.top_k; }) {
      moba.top_k = p.top_k;
      moba.gate = p.gate == ATTNSPEC_GATE_TOP_K    ? reference::Gate::top_k
                  : p.gate == ATTNSPEC_GATE_WINDOW ? reference::Gate::window
                                                   : reference::Gate::sink;
    }
    if constexpr (requires { p.selection; }) call.selection = selection(p.selection);
    if constexpr (requires { p.sizes; }) nsa = nsa_problem(p.sizes, moba.attention);
    if constexpr (requires { p.window; }) nsa.window = p.window;
    EXPECT_EQ(p.call.struct_size, sizeof p);
    // The workspace is the kernel's to fill: 8 bytes for each query token.
    EXPECT_EQ(p.call.workspace_bytes, 8 * p.q.shape[0]);
    if (p.call.workspace != nullptr) std::memset(p.call.workspace, 1, static_cast<std::size_t>(8 * p.q.shape[0]));
  }
  Mirrored(const Mirrored&) = delete;
};

/// The model kernel with every operator.
const Kernel& model() {
  static const Kernel kernel = [] {
    Kernel all = find_kernel("model:moba");
    all.operators.assign(std::begin(kOperators), std::end(kOperators));
    return all;
  }();
  return kernel;
}

template <Operator op, class Params>
const char* forward(const Params* p) {
  model().forward(Mirrored(op, *p).call);
  return nullptr;
}
template <Operator op, class Backward>
const char* backward(const Backward* p) {
  EXPECT_EQ(p->struct_size, sizeof *p);
  model().backward({Mirrored(op, *p->forward).call, view(p->d_o), view(p->dq), view(p->dk), view(p->dv)});
  return nullptr;
}

CompressCall compress_call(const AttnspecNsaCompress& p, reference::NsaProblem& nsa) {
  nsa = nsa_problem(p.sizes, attention(p.call, p.tokens, p.tokens, p.tokens.shape[2]));
  set_phi(p.sizes, p.phi, nsa);
  EXPECT_EQ(p.sizes.row_offsets[p.call.num_sequences], p.rows.shape[0]);
  return {nsa, view(p.tokens), phi(p.phi), view(p.rows), {}};
}
const char* compress(const AttnspecNsaCompress* p) {
  reference::NsaProblem nsa;
  model().compress(compress_call(*p, nsa));
  return nullptr;
}
const char* compress_backward(const AttnspecNsaCompressBackward* p) {
  reference::NsaProblem nsa;
  model().compress_backward({compress_call(*p->forward, nsa), view(p->d_rows), view(p->d_tokens), phi(p->d_phi)});
  return nullptr;
}

NsaCall nsa_call(const AttnspecNsa& p, reference::NsaProblem& nsa) {
  const auto branch = [](const AttnspecBranch& b) { return BranchCall{view(b.k), view(b.v), view(b.o), view(b.lse)}; };
  nsa = nsa_problem(p.sizes, attention(p.call, p.q, p.window.k, p.window.v.shape[2]));
  set_phi(p.sizes, p.phi_k, nsa);
  return {nsa,
          view(p.q),
          branch(p.compressed),
          branch(p.selected),
          branch(p.window),
          view(p.gates),
          phi(p.phi_k),
          phi(p.phi_v),
          view(p.k_compressed),
          view(p.v_compressed),
          selection(p.selection),
          view(p.o),
          {}};
}
const char* whole_nsa(const AttnspecNsa* p) {
  reference::NsaProblem nsa;
  model().nsa(nsa_call(*p, nsa));
  return nullptr;
}
const char* whole_nsa_backward(const AttnspecNsaBackward* p) {
  reference::NsaProblem nsa;
  const auto branch = [](const AttnspecBranchGradients& b) { return BranchGradientViews{view(b.dk), view(b.dv)}; };
  model().nsa_backward({nsa_call(*p->forward, nsa), view(p->d_o), view(p->dq), branch(p->compressed),
                        branch(p->selected), branch(p->window), view(p->d_gates), view(p->dk_compressed),
                        view(p->dv_compressed), phi(p->d_phi_k), phi(p->d_phi_v)});
  return nullptr;
}

/// 8 bytes for each query token, read off the struct of the operator.
std::int64_t workspace_bytes(std::uint32_t op, std::int32_t, const void* params) {
  const auto& call = *static_cast<const AttnspecCall*>(params);
  if (op == ATTNSPEC_NSA) {
    const auto& p = *static_cast<const AttnspecNsa*>(params);
    EXPECT_EQ(p.selected.o.shape[0], call.q_offsets[call.num_sequences]);
    EXPECT_EQ(p.k_compressed.shape[0], p.sizes.row_offsets[call.num_sequences]);
    EXPECT_EQ(p.q.data, nullptr);
  }
  return 8 * call.q_offsets[call.num_sequences];
}

AttnspecKernel mirror() {
  AttnspecKernel kernel = minimal();
  kernel.name = "mirror";
  kernel.departures = "";
  kernel.operators = 255;
  kernel.promises =
      ATTNSPEC_EXPORTS_SELECTION | ATTNSPEC_DETERMINISTIC | ATTNSPEC_ROW_INDEPENDENT | ATTNSPEC_BATCH_INVARIANT;
  kernel.workspace_bytes = workspace_bytes;
  kernel.dense = forward<Operator::dense>;
  kernel.dense_backward = backward<Operator::dense>;
  kernel.selected = forward<Operator::selected>;
  kernel.selected_backward = backward<Operator::selected>;
  kernel.moba_select = forward<Operator::moba_select>;
  kernel.moba = forward<Operator::moba>;
  kernel.moba_backward = backward<Operator::moba>;
  kernel.nsa_compress = compress;
  kernel.nsa_compress_backward = compress_backward;
  kernel.nsa_compressed = forward<Operator::nsa_compressed>;
  kernel.nsa_compressed_backward = backward<Operator::nsa_compressed>;
  kernel.window = forward<Operator::window>;
  kernel.window_backward = backward<Operator::window>;
  kernel.nsa = whole_nsa;
  kernel.nsa_backward = whole_nsa_backward;
  return kernel;
}

TEST(ForeignKernel, PromisesBitsInOrder) {
  AttnspecKernel kernel = mirror();
  EXPECT_EQ(make_foreign_kernel(kernel, "mirror").equal_bits_backward, EqualBits::any_batch);
  kernel.promises |= ATTNSPEC_UNORDERED_BACKWARD;
  EXPECT_EQ(make_foreign_kernel(kernel, "mirror").equal_bits, EqualBits::any_batch);
  EXPECT_EQ(make_foreign_kernel(kernel, "mirror").equal_bits_backward, EqualBits::none);
  kernel.promises = ATTNSPEC_EXPORTS_SELECTION;
  EXPECT_EQ(make_foreign_kernel(kernel, "mirror").equal_bits, EqualBits::none);
  const auto rejection = [&](std::uint32_t promises) {
    kernel.promises = ATTNSPEC_EXPORTS_SELECTION | promises;
    return message_of<std::invalid_argument>([&] { make_foreign_kernel(kernel, "mirror"); });
  };
  EXPECT_EQ(rejection(ATTNSPEC_ROW_INDEPENDENT),
            "kernel 'mirror': promise ATTNSPEC_ROW_INDEPENDENT needs ATTNSPEC_DETERMINISTIC");
  EXPECT_EQ(rejection(ATTNSPEC_DETERMINISTIC | ATTNSPEC_BATCH_INVARIANT),
            "kernel 'mirror': promise ATTNSPEC_BATCH_INVARIANT needs ATTNSPEC_ROW_INDEPENDENT");
}

/// Every sixteenth case of level 1 gives the mirror what it gives the model kernel: the same rows with the same errors.
TEST(ForeignKernel, CarriesEveryOperatorThereAndBack) {
  const Kernel kernel = make_foreign_kernel(mirror(), "mirror");
  EXPECT_EQ(kernel.forward_only, std::vector{Operator::moba_select});
  for (const Operator op : kernel.operators) {
    const std::vector<Case> cases = level_cases(op, 1);
    for (std::size_t i = 0; i < cases.size(); i += 16) {
      CaseResult expected = judge(model(), cases[i]), observed = judge(kernel, cases[i]);
      expected.kernel = observed.kernel = "";
      EXPECT_EQ(details(observed), details(expected)) << print(cases[i]);
    }
  }
}

}  // namespace

}  // namespace attnspec::verify
