// Reading and writing safetensors, and reading golden files, whole and broken.

#include "verify/cases/safetensors.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "verify/golden/golden.hpp"
#include "verify/selftest/testing.hpp"

namespace attnspec::verify {
namespace {

struct SafetensorsFile : testing::Test {
  TemporaryPath temporary{"some.safetensors"};
  const std::string path = temporary.string();

  void write(const std::string& header, const std::string& data, std::uint64_t size) {
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(&size), sizeof size);
    file << header << data;
  }
  void write(const std::string& header, const std::string& data) { write(header, data, header.size()); }

  std::string failure() const {
    const std::string message = message_of<std::runtime_error>([&] { read_safetensors(path); });
    if (message.empty()) return "";
    EXPECT_EQ(message.find(path), 0u) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message.substr(path.size() + 2);
  }
};

TEST_F(SafetensorsFile, GivesTensorsOfEveryDtype) {
  write(
      R"({"__metadata__":{"block":"16"},"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},)"
      R"("b":{"dtype":"F16","shape":[1,1],"data_offsets":[4,6]},"c":{"dtype":"I32","shape":[1],"data_offsets":[6,10]}})",
      std::string("\x80\x3f\x00\xc0", 4) + std::string("\x00\x38", 2) + std::string("\xff\xff\xff\xff", 4));
  const Safetensors file = read_safetensors(path);
  EXPECT_EQ(file.at("a").values, (std::vector<double>{1, -2}));
  EXPECT_EQ(file.at("b").values, (std::vector<double>{0.5}));
  EXPECT_EQ(file.at("c").values, (std::vector<double>{-1}));
  EXPECT_EQ(file.meta("block"), "16");
  EXPECT_THROW(file.at("d"), std::runtime_error);
  EXPECT_THROW(file.meta("lens"), std::runtime_error);
}

TEST_F(SafetensorsFile, IsReadAsItWasWritten) {
  Safetensors written{path, {{"case", "moba()"}}, {}};
  for (const char* dtype : {"BF16", "F16", "F32", "F64", "I32", "I64"})
    written.tensors[dtype] = {{2, 1, 2}, dtype, {1, -2, 96, 0}};
  written.tensors["rounded"] = {{1}, "BF16", {1 + 0x1p-12}};
  written.tensors["empty"] = {{0, 3}, "F32", {}};
  write_safetensors(written);
  const Safetensors read = read_safetensors(path);
  EXPECT_EQ(read.metadata, written.metadata);
  EXPECT_EQ(read.tensors.size(), 8u);
  for (const char* dtype : {"BF16", "F16", "F32", "F64", "I32", "I64"}) {
    EXPECT_EQ(read.at(dtype).shape, (std::vector<std::int64_t>{2, 1, 2}));
    EXPECT_EQ(read.at(dtype).values, (std::vector<double>{1, -2, 96, 0})) << dtype;
  }
  EXPECT_EQ(read.at("rounded").values, std::vector<double>{1});
  EXPECT_EQ(read.at("empty").shape, (std::vector<std::int64_t>{0, 3}));
}

TEST_F(SafetensorsFile, IsNotWrittenWhereItCannotBe) {
  const auto failure_of = [](const Safetensors& file) {
    return message_of<std::runtime_error>([&] { write_safetensors(file); });
  };
  EXPECT_EQ(failure_of({"/nonexistent/x", {}, {}}), "/nonexistent/x: cannot be written");
  EXPECT_EQ(failure_of({path, {}, {{"a", {{1}, "F8", {0}}}}}), path + ": tensor a: dtype F8 is not known");
  EXPECT_EQ(failure_of({path, {}, {{"a", {{2}, "F32", {0}}}}}), path + ": tensor a: has 1 values, its shape 2");
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(SafetensorsFile, FailsInOneLineWhenItIsBroken) {
  EXPECT_EQ(failure(), "cannot be read");
  std::ofstream(path) << "abc";
  EXPECT_EQ(failure(), "truncated, 3 bytes");
  write("{}", "", 1000);
  EXPECT_EQ(failure(), "truncated: its header has 1000 bytes, the file 10");
  write("{]", "");
  EXPECT_EQ(failure().substr(0, 8), "header: ");
  write(R"({"a":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}})", "12345678");
  EXPECT_EQ(failure(), "tensor a: ends at byte 16 of 8: the file is truncated");
  write(R"({"a":{"dtype":"F8","shape":[8],"data_offsets":[0,8]}})", "12345678");
  EXPECT_EQ(failure(), "tensor a: dtype F8 is not known");
  write(R"({"a":{"dtype":"F64","shape":[3],"data_offsets":[0,8]}})", "12345678");
  EXPECT_EQ(failure(), "tensor a: data_offsets do not fit the shape");
  write(R"({"a":{"dtype":"F64","shape":[999,999],"data_offsets":[0,8]}})", "12345678");
  EXPECT_EQ(failure(), "tensor a: shape does not fit the file");
  write(R"({"a":{"dtype":"F64","shape":[0],"data_offsets":[0,8]}})", "12345678");
  EXPECT_EQ(failure(), "tensor a: data_offsets do not fit the shape");
  write(R"({"a":{"dtype":"F64","shape":[-1],"data_offsets":[0,8]}})", "12345678");
  EXPECT_EQ(failure(), "tensor a: shape does not fit the file");
  write(R"({"a":{"dtype":"F64","shape":[1],"data_offsets":[8,0]}})", "12345678");
  EXPECT_EQ(failure(), "tensor a: data_offsets are not a begin and an end");
  write(R"({"a":{"dtype":"F64"}})", "12345678");
  EXPECT_EQ(failure().substr(0, 8), "header: ");
  write(R"([1,2])", "");
  EXPECT_EQ(failure().substr(0, 8), "header: ");
}

TEST_F(SafetensorsFile, FailsAtEveryLengthItCanBeTruncatedTo) {
  const std::string bytes = read_file(golden_files().front());
  for (std::size_t size = 0; size < bytes.size(); size += 1 + bytes.size() / 97) {
    std::ofstream(path, std::ios::binary) << bytes.substr(0, size);
    EXPECT_NE(failure(), "") << size;
  }
}

TEST(Golden, TellsAWrongResultFromARightOne) {
  const std::string path = golden_files().front();
  for (const GoldenComparison& comparison : compare_golden(path)) EXPECT_TRUE(comparison.agrees()) << comparison.tensor;
  std::string bytes = read_file(path);
  const std::size_t dk_begins = bytes.find('}', bytes.find("\"dk\":{")) + 1;
  ASSERT_LT(dk_begins, bytes.size());
  std::uint64_t header = 0;
  std::copy_n(bytes.data(), sizeof header, reinterpret_cast<char*>(&header));
  bytes[8 + header + 8 * 100 + 5] ^= 1;  // a middle bit of one number of dk, the first tensor
  const TemporaryPath changed("changed.safetensors");
  std::ofstream(changed.path(), std::ios::binary) << bytes;
  for (const GoldenComparison& comparison : compare_golden(changed.string()))
    EXPECT_EQ(comparison.agrees(), comparison.tensor != "dk");
}

TEST(Golden, CoversMobaAndNsa) {
  int files = 0;
  for (const std::string& path : golden_files()) {
    EXPECT_TRUE(is_defined(path)) << path;
    ++files;
  }
  EXPECT_GE(files, 7);
}

}  // namespace
}  // namespace attnspec::verify
