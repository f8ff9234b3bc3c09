#include "verify/safetensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "verify/storage.hpp"

namespace attnspec::verify {

namespace {

static_assert(std::endian::native == std::endian::little, "tensors are read as they lie in the file");

template <class T>
T load(const char* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

struct Dtype {
  const char* name;
  std::size_t bytes;
  double (*load)(const char*);
};
constexpr Dtype kDtypes[] = {
    {"BF16", 2, [](const char* b) { return decode_bf16(load<std::uint16_t>(b)); }},
    {"F16", 2, [](const char* b) { return decode_fp16(load<std::uint16_t>(b)); }},
    {"F32", 4, [](const char* b) -> double { return load<float>(b); }},
    {"F64", 8, [](const char* b) { return load<double>(b); }},
    {"I32", 4, [](const char* b) -> double { return load<std::int32_t>(b); }},
    {"I64", 8, [](const char* b) { return static_cast<double>(load<std::int64_t>(b)); }},
};

SafeTensor read_tensor(const std::string& path, const std::string& name, const nlohmann::json& entry, const char* data,
                       std::size_t size) {
  const auto fail = [&](const std::string& what) {
    throw std::runtime_error(fmt::format("{}: tensor {}: {}", path, name, what));
  };
  SafeTensor tensor{entry.at("shape"), entry.at("dtype"), {}};
  const auto dtype =
      std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](const Dtype& d) { return tensor.dtype == d.name; });
  if (dtype == std::end(kDtypes)) fail(fmt::format("dtype {} is not known", tensor.dtype));
  const std::vector<std::size_t> offsets = entry.at("data_offsets");
  if (offsets.size() != 2 || offsets[0] > offsets[1]) fail("data_offsets are not a begin and an end");
  if (offsets[1] > size) fail(fmt::format("ends at byte {} of {}: the file is truncated", offsets[1], size));
  std::size_t count = 1;
  for (const std::int64_t length : tensor.shape) {
    if (length < 0 || (length > 0 && count > size / static_cast<std::size_t>(length)))
      fail("shape does not fit the file");
    count *= static_cast<std::size_t>(length);
  }
  if (count * dtype->bytes != offsets[1] - offsets[0]) fail("data_offsets do not fit the shape");
  tensor.values.resize(count);
  for (std::size_t i = 0; i < count; ++i) tensor.values[i] = dtype->load(data + offsets[0] + i * dtype->bytes);
  return tensor;
}

}  // namespace

const SafeTensor& Safetensors::at(const std::string& tensor) const {
  const auto found = tensors.find(tensor);
  if (found == tensors.end()) throw std::runtime_error(fmt::format("{}: has no tensor {}", path, tensor));
  return found->second;
}

const std::string& Safetensors::meta(const std::string& key) const {
  const auto found = metadata.find(key);
  if (found == metadata.end()) throw std::runtime_error(fmt::format("{}: has no metadata {}", path, key));
  return found->second;
}

Safetensors read_safetensors(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path)) throw std::runtime_error(fmt::format("{}: cannot be read", path));
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  if (bytes.size() < 8) throw std::runtime_error(fmt::format("{}: truncated, {} bytes", path, bytes.size()));
  const auto header_size = load<std::uint64_t>(bytes.data());
  if (header_size > bytes.size() - 8)
    throw std::runtime_error(
        fmt::format("{}: truncated: its header has {} bytes, the file {}", path, header_size, bytes.size()));
  Safetensors result{path, {}, {}};
  try {
    const auto header =
        nlohmann::json::parse(bytes.begin() + 8, bytes.begin() + 8 + static_cast<std::ptrdiff_t>(header_size));
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") {
        result.metadata = entry.get<std::map<std::string, std::string>>();
      } else {
        result.tensors[name] =
            read_tensor(path, name, entry, bytes.data() + 8 + header_size, bytes.size() - 8 - header_size);
      }
    }
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(fmt::format("{}: header: {}", path, error.what()));
  }
  return result;
}

std::vector<std::string> safetensors_stems(const std::string& directory) {
  std::error_code error;
  std::vector<std::string> stems;
  for (std::filesystem::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error))
    if (entry->path().extension() == ".safetensors") stems.push_back(entry->path().stem().string());
  if (error) throw std::runtime_error(fmt::format("{}: {}", directory, error.message()));
  std::sort(stems.begin(), stems.end());
  return stems;
}

}  // namespace attnspec::verify
