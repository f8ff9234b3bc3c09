// The predicted noise of phi and of the gates against kernels that make it: a
// simulated one, with the arithmetic that the prediction allows.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <string>

#include "reference/noise/compression_gradient_noise.hpp"
#include "reference/noise/nsa_gate_noise.hpp"
#include "verify/cases/random.hpp"
#include "verify/judge/compare.hpp"

namespace attnspec::verify {
namespace {

using namespace reference;

/// What data look like.
enum class Data {
  normal,
  repeated,
  offset,
  tiny,
  zero,
  wandering  // partial sums of products rise, and fall back
};

/// phi on keys of two sequences and two kv heads that share it.
struct Setting {
  NsaProblem problem;
  Arithmetic arithmetic;
  Data data;
  bool rounds_inputs = true;  // whether the kernel rounds z to the format of products
};

std::string describe(const Setting& s) {
  return std::string(name(s.arithmetic.input)) + " in, " + name(s.arithmetic.output) + " out" + ", phi " +
         std::to_string(static_cast<int>(s.problem.phi)) + ", activation " +
         std::to_string(static_cast<int>(s.problem.activation)) + ", data " + std::to_string(static_cast<int>(s.data)) +
         (s.rounds_inputs ? "" : ", z in fp32");
}

constexpr std::int64_t kFeatures = 24;

NsaProblem problem_of(Phi phi, Activation activation) {
  NsaProblem problem;
  problem.attention.q_offsets = problem.attention.k_offsets = {0, 50, 88};
  problem.attention.heads = problem.attention.kv_heads = 2;
  problem.compress_block = 8;
  problem.compress_stride = 4;
  problem.phi = phi;
  problem.activation = activation;
  problem.hidden = 16;
  problem.shared_phi = true;
  return problem;
}

Matrix draw(Eigen::Index rows, Eigen::Index columns, double scale, Format format, const std::string& name) {
  const Random random(7, name);
  Matrix matrix(rows, columns);
  for (Eigen::Index n = 0; n < matrix.size(); ++n)
    matrix.data()[n] = round_to(scale * random.normal(static_cast<std::uint64_t>(n)), format);
  return matrix;
}

double of_kind(Data data, double x, bool is_early) {
  if (data == Data::wandering) return is_early ? std::abs(x) : -std::abs(x);
  return data == Data::offset ? 3 + x / 8 : data == Data::tiny ? x * 1e-5 : data == Data::zero ? 0 : x;
}

Tensor draw_tokens(std::int64_t tokens, const Setting& s, const std::string& name) {
  Tensor tensor(tokens, 2, kFeatures);
  for (std::int64_t g = 0; g < 2; ++g) {
    const Matrix rows = draw(tokens, kFeatures, 0.9, s.arithmetic.input, name + std::to_string(g));
    for (std::int64_t t = 0; t < tokens; ++t)
      for (std::int64_t d = 0; d < kFeatures; ++d) {
        const double x = rows(s.data == Data::repeated ? t % 4 : t, d);
        const bool is_early = name == "tokens" ? t % 8 < 4 : d < kFeatures / 2;  // in the products it enters
        tensor.row(t, g)[d] = round_to(of_kind(s.data, x, is_early), s.arithmetic.input);
      }
  }
  return tensor;
}

PhiParameters draw_phi(const Setting& s) {
  const std::int64_t l = s.problem.compress_block, inputs = l * kFeatures, hidden = s.problem.hidden;
  const auto normal = [&](std::int64_t rows, std::int64_t columns, double scale, const char* name) {
    return draw(rows, columns, scale, s.arithmetic.input, name);
  };
  PhiParameters phi;
  if (s.problem.phi == Phi::mean) return phi;
  phi.position = normal(l, kFeatures, 0.3, "position");
  const double scale = 1 / std::sqrt(static_cast<double>(inputs));
  if (s.problem.phi == Phi::linear) {
    phi.w = normal(inputs, kFeatures, scale, "w");
  } else {
    phi.w1 = normal(inputs, hidden, scale, "w1");
    phi.b1 = normal(hidden, 1, 0.5, "b1").col(0);
    phi.w2 = normal(hidden, kFeatures, 0.25, "w2");
    phi.b2 = normal(kFeatures, 1, 0.5, "b2").col(0);
  }
  if (s.data == Data::wandering)
    for (Matrix* matrix : {&phi.w, &phi.w1, &phi.w2}) *matrix = matrix->cwiseAbs();
  return phi;
}

/// A correct kernel: fp32, and z, activations and d_hidden rounded before they
/// are multiplied.
class Simulation {
 public:
  Simulation(const Setting& setting, const PhiParameters& phi) : s_(setting), phi_(phi) {}

  struct Block {
    Vector z, hidden, act, row;
  };

  /// x [l, features].
  Block forward(const Rows& x) const {
    Block block;
    if (s_.problem.phi == Phi::mean) {
      block.row = sum(x) / static_cast<float>(x.rows());
      return to_fp32(std::move(block));
    }
    block.z = (x + phi_.position).reshaped<Eigen::RowMajor>();
    for (double& z : block.z) z = s_.rounds_inputs ? product_format(static_cast<float>(z)) : static_cast<float>(z);
    if (s_.problem.phi == Phi::linear) {
      block.row = product(phi_.w.transpose(), block.z);
      return block;
    }
    block.hidden = added(product(phi_.w1.transpose(), block.z), phi_.b1);
    block.act = block.hidden.unaryExpr([&](double h) { return product_format(activate(static_cast<float>(h))); });
    block.row = added(product(phi_.w2.transpose(), block.act), phi_.b2);
    return block;
  }

  /// The gradients of all blocks: x and d_row of each. Every gradient of the
  /// tokens of block b, [B][l, features].
  std::vector<Matrix> backward(const std::vector<Matrix>& x, const Matrix& d_rows, PhiParameters& sum_of) const {
    const Eigen::Index num = d_rows.rows(), l = s_.problem.compress_block;
    std::vector<Matrix> d_x;
    if (s_.problem.phi == Phi::mean) {
      for (Eigen::Index b = 0; b < num; ++b)
        d_x.push_back((d_rows.row(b) / static_cast<double>(l)).cast<float>().cast<double>().replicate(l, 1));
      return d_x;
    }
    Matrix z(num, l * kFeatures), act(num, s_.problem.hidden), d_hidden = act;
    for (Eigen::Index b = 0; b < num; ++b) {
      const Matrix& rows = x[static_cast<std::size_t>(b)];
      const Block block = forward(view(rows));
      z.row(b) = block.z.transpose();
      Vector d_z;
      if (s_.problem.phi == Phi::linear) {
        d_z = product(phi_.w, d_rows.row(b).transpose());
      } else {
        act.row(b) = block.act.transpose();
        const Vector d_act = product(phi_.w2, d_rows.row(b).transpose());
        for (Eigen::Index u = 0; u < d_act.size(); ++u)
          d_hidden(b, u) = product_format(static_cast<float>(d_act[u]) * slope(static_cast<float>(block.hidden[u])));
        d_z = product(phi_.w1, d_hidden.row(b).transpose());
      }
      d_x.push_back(d_z.reshaped<Eigen::RowMajor>(l, kFeatures));
    }
    sum_of.position = Matrix(l, kFeatures);
    for (Eigen::Index i = 0; i < l; ++i) {
      Matrix terms(num, kFeatures);
      for (Eigen::Index b = 0; b < num; ++b) terms.row(b) = d_x[static_cast<std::size_t>(b)].row(i);
      sum_of.position.row(i) = sum(terms).transpose();
    }
    if (s_.problem.phi == Phi::linear) {
      sum_of.w = outer(z, d_rows);
    } else {
      sum_of.w1 = outer(z, d_hidden);
      sum_of.w2 = outer(act, d_rows);
      sum_of.b1 = sum(d_hidden);
      sum_of.b2 = sum(d_rows);
    }
    return d_x;
  }

  /// The rows' sum in fp32.
  static Vector sum(const Matrix& rows) {
    Eigen::VectorXf result = Eigen::VectorXf::Zero(rows.cols());
    for (Eigen::Index i = 0; i < rows.rows(); ++i) result += rows.row(i).transpose().cast<float>();
    return result.cast<double>();
  }

 private:
  double product_format(float x) const { return round_to(x, s_.arithmetic.weights); }

  static Block to_fp32(Block block) {
    block.row = block.row.cast<float>().cast<double>();
    return block;
  }

  static Vector added(const Vector& x, const Vector& b) { return (x + b).cast<float>().cast<double>(); }

  static Vector product(const Matrix& a, const Vector& x) {
    Eigen::VectorXf result = Eigen::VectorXf::Zero(a.rows());
    for (Eigen::Index i = 0; i < a.cols(); ++i) result += a.col(i).cast<float>() * static_cast<float>(x[i]);
    return result.cast<double>();
  }

  /// sum_b a_b c_b^T.
  static Matrix outer(const Matrix& a, const Matrix& c) {
    Eigen::MatrixXf result = Eigen::MatrixXf::Zero(a.cols(), c.cols());
    for (Eigen::Index b = 0; b < a.rows(); ++b) result += a.row(b).transpose().cast<float>() * c.row(b).cast<float>();
    return result.cast<double>();
  }

  float activate(float x) const {
    if (s_.problem.activation == Activation::relu) return std::max(x, 0.0f);
    if (s_.problem.activation == Activation::silu) return x / (1 + std::exp(-x));
    return x * 0.5f * (1 + std::erf(x * 0.70710678f));
  }

  float slope(float x) const {
    if (s_.problem.activation == Activation::relu) return x > 0 ? 1 : 0;
    const float s = 1 / (1 + std::exp(-x));
    if (s_.problem.activation == Activation::silu) return s * (1 + x * (1 - s));
    return 0.5f * (1 + std::erf(x * 0.70710678f)) + x * std::exp(-x * x / 2) * 0.39894228f;
  }

  const Setting& s_;
  const PhiParameters& phi_;
};

/// Compares rows and collects R where errors spread.
class Rs {
 public:
  void compare(const std::string& output, const PredictedRow& row, const Vector& value, Format format) {
    Vector observed = value;
    for (double& x : observed) x = round_to(x, format);
    const Covariance covariance = row.covariance();
    const RowComparison result = compare_row(row.expected, observed, row.sum.noise, format, covariance);
    EXPECT_EQ(result.fault, RowFault::none)
        << output << " element " << result.d << " bound " << result.bound << " R " << result.r << " limit "
        << result.limit << " observed " << observed[result.d] << " expected " << row.expected[result.d];
    if (num_rows_++ % 4 != 0) return;  // of a sample:
    const Matrix matrix = covariance.matrix();
    EXPECT_TRUE(matrix.diagonal().isApprox(row.sum.noise.variance, 1e-6)) << output;
    if (effective_terms(matrix) >= 4) r_[output].push_back(result.r);
  }

  std::map<std::string, double> medians() const {
    std::map<std::string, double> result;
    for (auto [output, rs] : r_) {
      if (rs.size() < 8) continue;
      std::nth_element(rs.begin(), rs.begin() + static_cast<std::ptrdiff_t>(rs.size() / 2), rs.end());
      result[output] = rs[rs.size() / 2];
    }
    return result;
  }

 private:
  std::map<std::string, std::vector<double>> r_;
  std::int64_t num_rows_ = 0;
};

/// Judges the simulated kernel: every row of the forward and of every gradient.
Rs judge(const Setting& s) {
  Rs rs;
  const PhiHeads phi{draw_phi(s)};
  const Simulation kernel(s, phi[0]);
  const Tensor tokens = draw_tokens(s.problem.attention.k_offsets.back(), s, "tokens");
  const std::vector<CompressionBlock> blocks = compression_blocks(s.problem);
  const Tensor d_rows = draw_tokens(static_cast<std::int64_t>(blocks.size()), s, "d_rows");
  const CompressionNoise noise(s.arithmetic, s.problem, phi[0]);
  std::vector<Matrix> x;
  Matrix given(2 * d_rows.tokens, kFeatures);
  for (std::int64_t g = 0; g < 2; ++g) {
    for (const auto& [begin, end, row] : blocks) {
      given.row(static_cast<Eigen::Index>(x.size())) = d_rows.row(row, g).transpose();
      x.emplace_back(tokens.rows(begin, end, g));
      rs.compare("row", noise.row(tokens.rows(begin, end, g)), kernel.forward(tokens.rows(begin, end, g)).row,
                 s.arithmetic.input);
    }
  }
  PhiParameters observed;
  const std::vector<Matrix> d_x = kernel.backward(x, given, observed);
  const PhiBackward backward = phi_backward(s.arithmetic, s.problem, phi, tokens, d_rows, 0);
  const Format format = s.arithmetic.output;
  for (std::int64_t g = 0; g < 2; ++g) {
    for (std::int64_t t = 0; t < tokens.tokens; ++t) {
      Matrix terms(0, kFeatures);
      for (std::size_t i = 0; i < blocks.size(); ++i) {
        if (t < blocks[i].begin || t >= blocks[i].end) continue;
        terms.conservativeResize(terms.rows() + 1, kFeatures);
        terms.bottomRows(1) = d_x[static_cast<std::size_t>(g) * blocks.size() + i].row(t - blocks[i].begin);
      }
      rs.compare("tokens", token_gradient(backward, t, g), Simulation::sum(terms), format);
    }
  }
  const auto compare_rows = [&](const char* name, const Matrix& matrix,
                                PredictedRow (*row)(const PhiBackward&, std::int64_t)) {
    for (Eigen::Index i = 0; i < matrix.rows(); ++i)
      rs.compare(name, row(backward, i), matrix.row(i).transpose(), format);
  };
  if (s.problem.phi == Phi::mean) return rs;
  compare_rows("position", observed.position, &position_gradient);
  if (s.problem.phi == Phi::linear) {
    compare_rows("w", observed.w, &w_gradient);
  } else {
    compare_rows("w1", observed.w1, &w1_gradient);
    compare_rows("w2", observed.w2, &w2_gradient);
    rs.compare("b1", b1_gradient(backward), observed.b1, format);
    rs.compare("b2", b2_gradient(backward), observed.b2, format);
  }
  return rs;
}

std::vector<Setting> settings(Data data) {
  std::vector<Setting> result;
  for (const auto& [phi, activation] : {std::pair(Phi::mean, Activation::relu),
                                        std::pair(Phi::linear, Activation::relu), std::pair(Phi::mlp, Activation::relu),
                                        std::pair(Phi::mlp, Activation::silu), std::pair(Phi::mlp, Activation::gelu)}) {
    for (const Format format : {Format::bf16, Format::fp16, Format::fp32}) {
      result.push_back({problem_of(phi, activation), make_arithmetic(format), data});
      if (format == Format::fp32) continue;
      result.push_back({problem_of(phi, activation), make_arithmetic(format, {"fp32_weights"}), data});
      if (phi != Phi::mean) result.push_back({problem_of(phi, activation), make_arithmetic(format), data, false});
    }
  }
  return result;
}

TEST(CompressionNoise, IsWhatCorrectKernelsMake) {
  for (const Setting& s : settings(Data::normal)) {
    SCOPED_TRACE(describe(s));
    const Rs rs = judge(s);
    for (const auto& [output, median] : rs.medians()) {
      if (!s.rounds_inputs) continue;  // more exact than declared
      EXPECT_GT(median, 0.5) << output;
      EXPECT_LT(median, 1.3) << output;
    }
  }
}

TEST(CompressionNoise, HoldsCorrectKernelsOnRepeatedTokens) {
  for (const Setting& s : settings(Data::repeated)) {
    SCOPED_TRACE(describe(s));
    judge(s);
  }
}

TEST(CompressionNoise, HoldsCorrectKernelsOnTokensWithALargeMean) {
  for (const Setting& s : settings(Data::offset)) {
    SCOPED_TRACE(describe(s));
    judge(s);
  }
}

TEST(CompressionNoise, HoldsCorrectKernelsOnTinyTokensAndNone) {
  for (const Data data : {Data::tiny, Data::zero}) {
    for (const Setting& s : settings(data)) {
      SCOPED_TRACE(describe(s));
      judge(s);
    }
  }
}

TEST(CompressionNoise, HoldsCorrectKernelsWherePartialSumsWanderFar) {
  for (const Setting& s : settings(Data::wandering)) {
    SCOPED_TRACE(describe(s));
    judge(s);
  }
}

TEST(CompressionNoise, HoldsGradientsWherePartialSumsWanderFar) {
  constexpr std::int64_t kLong = 512;
  for (const Phi kind : {Phi::linear, Phi::mlp}) {
    SCOPED_TRACE(static_cast<int>(kind));
    NsaProblem problem = problem_of(kind, Activation::relu);
    problem.attention.q_offsets = problem.attention.k_offsets = {0, 1};
    problem.attention.heads = problem.attention.kv_heads = 1;
    problem.compress_block = problem.compress_stride = 1;
    PhiHeads phi = zero_phi(problem, kLong);
    Matrix& factor = kind == Phi::linear ? phi[0].w : phi[0].w2;
    factor = draw(factor.rows(), kLong, 0.05, Format::fp32, "factor").cwiseAbs();
    phi[0].b1.setOnes();  // every unit is on
    Tensor d_rows(1, 1, kLong);
    d_rows.row(0, 0) = draw(kLong, 1, 0.9, Format::fp32, "d_rows").cwiseAbs();
    d_rows.row(0, 0).tail(kLong / 2) *= -1;
    const Vector d_row = d_rows.row(0, 0);
    const PhiBackward backward =
        phi_backward(make_arithmetic(Format::fp32), problem, phi, Tensor(1, 1, kLong), d_rows, 0);
    const Vector observed = Simulation::sum(d_row.asDiagonal() * factor.transpose());
    Rs().compare("gradient", kind == Phi::linear ? token_gradient(backward, 0, 0) : b1_gradient(backward), observed,
                 Format::fp32);
  }
}

TEST(CompressionNoise, ShowsAMissingBlockInEveryGradient) {
  for (const Phi phi : {Phi::linear, Phi::mlp}) {
    const Setting s{problem_of(phi, Activation::silu), make_arithmetic(Format::bf16), Data::normal};
    const PhiHeads parameters{draw_phi(s)};
    const Tensor tokens = draw_tokens(s.problem.attention.k_offsets.back(), s, "tokens");
    Tensor d_rows = draw_tokens(compressed_offsets(s.problem).back(), s, "d_rows");
    const PhiBackward backward = phi_backward(s.arithmetic, s.problem, parameters, tokens, d_rows, 0);
    d_rows.row(3, 1).setZero();
    const PhiParameters lacking = compress_backward(s.problem, parameters, tokens, d_rows).phi[0];
    const auto finds = [&](const PredictedRow& row, Vector observed) {
      for (double& x : observed) x = round_to(x, Format::bf16);
      return compare_row(row.expected, observed, row.sum.noise, Format::bf16, row.covariance()).fault != RowFault::none;
    };
    std::int64_t found = 0, rows = 0;
    for (Eigen::Index i = 0; i < lacking.w.rows(); ++i, ++rows)
      found += finds(w_gradient(backward, i), lacking.w.row(i).transpose());
    for (Eigen::Index i = 0; i < lacking.w1.rows(); ++i, ++rows)
      found += finds(w1_gradient(backward, i), lacking.w1.row(i).transpose());
    EXPECT_GT(found, rows * 3 / 4);
    EXPECT_TRUE(finds(position_gradient(backward, 2), lacking.position.row(2).transpose()));
    if (phi == Phi::mlp) {
      EXPECT_TRUE(finds(b1_gradient(backward), lacking.b1));
      EXPECT_TRUE(finds(b2_gradient(backward), lacking.b2));
    }
  }
}

/// A branch's output as kernels store it.
Vector stored_branch(const Vector& o, Format format) {
  return o.unaryExpr([&](double x) { return round_to(x, format); });
}

TEST(GateNoise, IsWhatCorrectKernelsMake) {
  for (const Format format : {Format::bf16, Format::fp16, Format::fp32}) {
    for (const ArithmeticOptions& options : {ArithmeticOptions{}, ArithmeticOptions{"fp32_out"}}) {
      for (const bool fused : {false, true}) {
        Arithmetic arithmetic = make_arithmetic(format, options);
        arithmetic.fused_branches = fused;
        SCOPED_TRACE(reference::describe(format, options) + (fused ? "; fused" : ""));
        Rs rs;
        const Matrix gates = draw(100, 3, 0.9, Format::fp32, "gates"), d_o = draw(100, kFeatures, 0.9, format, "do");
        std::array<Matrix, 3> exact;  // as fp32 holds them
        for (std::size_t b = 0; b < 3; ++b) exact[b] = draw(100, kFeatures, 0.9, Format::fp32, std::string(b + 1, 'o'));
        for (Eigen::Index t = 0; t < 100; ++t) {
          const Vector gate = gates.row(t).transpose(), d_row = d_o.row(t).transpose();
          std::array<Vector, 3> given;
          for (std::size_t b = 0; b < 3; ++b) given[b] = stored_branch(exact[b].row(t).transpose(), arithmetic.output);
          const BranchRows rows{given[0], given[1], given[2]};
          Eigen::VectorXf o = Eigen::VectorXf::Zero(kFeatures);
          Vector d_gate(3);
          for (Eigen::Index b = 0; b < 3; ++b) {
            const auto at = static_cast<std::size_t>(b);
            const Vector summed = fused ? Vector(exact[at].row(t).transpose()) : given[at];
            o += static_cast<float>(gate[b]) * summed.cast<float>();
            float sum = 0;
            for (Eigen::Index d = 0; d < kFeatures; ++d)
              sum += static_cast<float>(d_row[d]) * static_cast<float>(given[at][d]);
            d_gate[b] = sum;
          }
          rs.compare("o", gated_noise(arithmetic, gate, rows), o.cast<double>(), arithmetic.output);
          rs.compare("d_gates", gate_gradient_noise(arithmetic, d_row, rows), d_gate, arithmetic.output);
        }
        const double median = rs.medians()["o"];
        EXPECT_GT(median, 0.5);
        EXPECT_LT(median, 1.3);
      }
    }
  }
}

TEST(GateGradientNoise, HoldsEqualTermsThatDrift) {  // fp32 sums 0.1f 4096 times
  const Vector d_o = Vector::Constant(4096, static_cast<double>(0.1f)), o = Vector::Ones(4096);
  float sum = 0;
  for (int d = 0; d < 4096; ++d) sum += 0.1f;
  Rs rs;
  rs.compare("d_gates", gate_gradient_noise(make_arithmetic(Format::fp32), d_o, {o, o, o}),
             Vector::Constant(3, static_cast<double>(sum)), Format::fp32);
}

}  // namespace
}  // namespace attnspec::verify
