#include "verify/cases/safetensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>

#include "verify/operators/tensor_view.hpp"

namespace attnspec::verify {

namespace {

static_assert(std::endian::native == std::endian::little, "tensors lie in the file as they do in memory");

template <class T>
T load(const char* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

template <class T>
void append(std::string& bytes, T value) {
  char memory[sizeof value];
  std::memcpy(memory, &value, sizeof value);
  bytes.append(memory, sizeof value);
}

struct Dtype {
  const char* name;
  std::size_t bytes;
  double (*load)(const char*);
  void (*append)(std::string&, double);
};
constexpr Dtype kDtypes[] = {
    {"BF16", 2, [](const char* b) { return decode_bf16(load<std::uint16_t>(b)); },
     [](std::string& b, double x) { append(b, encode_bf16(reference::round_to(x, Format::bf16))); }},
    {"F16", 2, [](const char* b) { return decode_fp16(load<std::uint16_t>(b)); },
     [](std::string& b, double x) { append(b, encode_fp16(reference::round_to(x, Format::fp16))); }},
    {"F32", 4, [](const char* b) -> double { return load<float>(b); },
     [](std::string& b, double x) { append(b, static_cast<float>(x)); }},
    {"F64", 8, [](const char* b) { return load<double>(b); }, [](std::string& b, double x) { append(b, x); }},
    {"I32", 4, [](const char* b) -> double { return load<std::int32_t>(b); },
     [](std::string& b, double x) { append(b, static_cast<std::int32_t>(x)); }},
    {"I64", 8, [](const char* b) { return static_cast<double>(load<std::int64_t>(b)); },
     [](std::string& b, double x) { append(b, static_cast<std::int64_t>(x)); }},
};

/// nullptr where there is none of that name.
const Dtype* find_dtype(const std::string& name) {
  const auto dtype =
      std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](const Dtype& d) { return name == d.name; });
  return dtype == std::end(kDtypes) ? nullptr : dtype;
}

SafeTensor read_tensor(const std::string& path, const std::string& name, const nlohmann::json& entry, const char* data,
                       std::size_t size) {
  const auto fail = [&](const std::string& what) {
    throw std::runtime_error(fmt::format("{}: tensor {}: {}", path, name, what));
  };
  SafeTensor tensor{entry.at("shape"), entry.at("dtype"), {}};
  const Dtype* dtype = find_dtype(tensor.dtype);
  if (dtype == nullptr) fail(fmt::format("dtype {} is not known", tensor.dtype));
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

void write_safetensors(const Safetensors& file) {
  const auto fail = [&](const std::string& what) { throw std::runtime_error(fmt::format("{}: {}", file.path, what)); };
  nlohmann::json header = nlohmann::json::object();
  if (!file.metadata.empty()) header["__metadata__"] = file.metadata;
  std::string data;
  for (const auto& [name, tensor] : file.tensors) {
    const Dtype* dtype = find_dtype(tensor.dtype);
    if (dtype == nullptr) fail(fmt::format("tensor {}: dtype {} is not known", name, tensor.dtype));
    const auto count = std::accumulate(tensor.shape.begin(), tensor.shape.end(), std::int64_t{1}, std::multiplies<>());
    if (count != std::ssize(tensor.values))
      fail(fmt::format("tensor {}: has {} values, its shape {}", name, tensor.values.size(), count));
    const std::size_t begin = data.size();
    for (const double value : tensor.values) dtype->append(data, value);
    header[name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that tensors are aligned
  const std::string partial = file.path + ".part";
  std::string bytes;
  append(bytes, std::uint64_t{text.size()});
  std::ofstream stream(partial, std::ios::binary);
  stream << bytes << text << data;
  stream.close();
  std::error_code error;
  if (stream) std::filesystem::rename(partial, file.path, error);
  if (stream && !error) return;
  std::filesystem::remove(partial, error);
  fail("cannot be written");
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
