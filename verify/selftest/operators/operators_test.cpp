// The operators' pages: their tensors are those of kernel_abi.h, their keys those of cases, and their names do not
// clash.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "verify/operators/operator.hpp"
#include "verify/selftest/testing.hpp"

namespace attnspec::verify {
namespace {

/// A field of a struct of the header.
struct Field {
  std::string type, name;
};
using Structs = std::map<std::string, std::vector<Field>>;

/// The structs of kernel_abi.h, without their prefix.
Structs header_structs() {
  std::stringstream text;
  text << std::ifstream(ATTNSPEC_SOURCE_DIR "/verify/abi/kernel_abi.h").rdbuf();
  const std::string code = std::regex_replace(text.str(), std::regex(R"(/\*[^*]*\*+([^/*][^*]*\*+)*/)"), "");
  const std::regex whole(R"(typedef struct Attnspec(\w+) \{([^}]*)\} Attnspec\w+;)"), line(R"((\w+) ([\w, ]+);)"),
      word(R"(\w+)");
  Structs structs;
  for (std::sregex_iterator one(code.begin(), code.end(), whole), end; one != end; ++one) {
    const std::string body = (*one)[2];
    for (std::sregex_iterator field(body.begin(), body.end(), line); field != end; ++field) {
      const std::string names = (*field)[2];
      for (std::sregex_iterator name(names.begin(), names.end(), word); name != end; ++name)
        structs[(*one)[1]].push_back({(*field)[1], name->str()});
    }
  }
  return structs;
}

/// The tensors of a struct in their order, by the path to them.
std::vector<std::string> tensors_of(const Structs& structs, const std::string& type, const std::string& path = "") {
  std::vector<std::string> names;
  const auto found = structs.find(type);
  if (found == structs.end()) return names;
  for (const Field& field : found->second) {
    if (field.type == "DLTensor") names.push_back(path + field.name);
    if (!field.type.starts_with("Attnspec")) continue;
    const auto parts = tensors_of(structs, field.type.substr(std::string("Attnspec").size()), path + field.name + ".");
    names.insert(names.end(), parts.begin(), parts.end());
  }
  return names;
}

/// "NsaCompress" of "nsa_compress".
std::string type_name(std::string name) {
  std::string type;
  for (std::size_t i = 0; i < name.size(); ++i)
    if (name[i] != '_') type += static_cast<char>(i == 0 || name[i - 1] == '_' ? std::toupper(name[i]) : name[i]);
  return type;
}

/// The names of a page's tensors in one of its structs, in the order of their offsets.
std::vector<std::string> by_offset(const OperatorPage& page, bool of_backward) {
  std::map<std::size_t, std::string> names;
  for (const TensorInfo& tensor : page.tensors) {
    const bool is_of_backward = tensor.role == Role::gradient || tensor.role == Role::given_gradient;
    if (is_of_backward != of_backward) continue;
    EXPECT_TRUE(names.emplace(tensor.offset, tensor.name).second) << tensor.name;
  }
  std::vector<std::string> list;
  for (const auto& [offset, name] : names) list.push_back(name);
  return list;
}

TEST(Operators, HaveTheTensorsOfTheHeader) {
  const Structs structs = header_structs();
  for (const Operator op : kOperators) {
    const OperatorPage& page = page_of(op);
    EXPECT_EQ(by_offset(page, false), tensors_of(structs, type_name(page.name))) << page.name;
    EXPECT_EQ(by_offset(page, true), tensors_of(structs, type_name(page.name) + "Backward")) << page.name;
    EXPECT_EQ(page.bit, 1u << static_cast<unsigned>(op)) << page.name;
    EXPECT_EQ(page.backward.struct_size > 0, has_gradients(op)) << page.name;
  }
}

TEST(Operators, HaveKeysThatCasesHave) {
  for (const Operator op : kOperators) {
    EXPECT_EQ(parse_operator(name(op)), op);
    for (const std::string& key : page_of(op).keys) {
      const auto why =
          message_of<std::invalid_argument>([&] { parse_case(std::string(name(op)) + "(" + key + "=?)"); });
      EXPECT_EQ(why.find(" has the keys "), std::string::npos) << why;
    }
  }
}

TEST(Operators, HaveNoTwoTensorsOfOneName) {
  for (const Operator op : kOperators) {
    std::set<std::string> names;
    for (const TensorInfo& tensor : page_of(op).tensors) EXPECT_TRUE(names.insert(tensor.name).second) << tensor.name;
  }
}

/// A gradient has the shape of its tensor, and an input has the shape that the page says.
TEST(Operators, HaveInputsOfTheShapesOfTheirPages) {
  for (const Operator op : kOperators) {
    const Case c = parse_case(std::string(name(op)) + "(lens=40+70" + (compresses(op) ? ",phi=mlp)" : ")"));
    const Inputs inputs = make_inputs(c);
    for (const TensorInfo& tensor : page_of(op).tensors) {
      const reference::Tensor* input = find_input(tensor, inputs);
      if (input == nullptr) continue;
      const auto [tokens, heads, dim] = shape_of(c, tensor);
      EXPECT_EQ(std::tuple(tokens, heads, dim), std::tuple(input->tokens, input->heads, input->dim)) << tensor.name;
    }
  }
}

TEST(Operators, AnswerQuestions) {
  const auto where = [](bool (*holds)(Operator)) {
    std::string names;
    for (const Operator op : kOperators)
      if (holds(op)) names += std::string(names.empty() ? "" : " ") + name(op);
    return names;
  };
  EXPECT_EQ(where(attends), "dense selected moba nsa_compressed window nsa");
  EXPECT_EQ(where(has_gradients), "dense selected moba nsa_compress nsa_compressed window nsa");
  EXPECT_EQ(where(selects), "moba_select moba msa_select dsa_select qsa_select");
  EXPECT_EQ(where(has_indexer), "msa_select dsa_select qsa_select");
  EXPECT_EQ(where(shares_selection), "nsa_compressed nsa dsa_select qsa_select");
  EXPECT_EQ(where(reads_selection), "selected");
  EXPECT_EQ(where(is_nsa), "nsa_compress nsa_compressed window nsa");
  EXPECT_EQ(where(compresses), "nsa_compress nsa");
  EXPECT_EQ(where(has_importance), "nsa_compressed nsa");
  EXPECT_EQ(where(has_branches), "nsa");
  EXPECT_EQ(where(has_queries),
            "dense selected moba_select moba nsa_compressed window nsa msa_select dsa_select qsa_select");
  EXPECT_EQ(where(has_slots), "selected moba_select moba msa_select dsa_select qsa_select");
  EXPECT_EQ(where(has_blocks), "selected moba_select moba nsa_compressed nsa msa_select qsa_select");
  EXPECT_EQ(where(has_compression), "nsa_compress nsa_compressed nsa");
  EXPECT_EQ(where(has_window), "window nsa");
}

}  // namespace
}  // namespace attnspec::verify
