// Reading and writing .safetensors: an 8-byte little-endian length, a JSON header, raw little-endian tensors.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace attnspec::verify {

struct SafeTensor {
  std::vector<std::int64_t> shape;
  std::string dtype;           // BF16, F16, F32, F64, I32 or I64
  std::vector<double> values;  // row-major; every dtype but I64 is exact in double
};

struct Safetensors {
  std::string path;
  std::map<std::string, std::string> metadata;
  std::map<std::string, SafeTensor> tensors;

  /// Throws std::runtime_error naming the file and the tensor or key it lacks.
  const SafeTensor& at(const std::string& tensor) const;
  const std::string& meta(const std::string& key) const;
};

/// Throws std::runtime_error, one line that names the file and what is wrong: cannot be read, truncated, a header that
/// is not JSON, an unknown dtype, offsets that do not fit the shape or lie outside the file.
Safetensors read_safetensors(const std::string& path);

/// Writes file.path; all or nothing. Each value is rounded once to its tensor's dtype. Throws std::runtime_error, one
/// line that names the file, when it cannot be written or a tensor has an unknown dtype or another number of values
/// than its shape.
void write_safetensors(const Safetensors& file);

/// The names of the .safetensors files in a directory, without the ending, sorted. Throws std::runtime_error when the
/// directory cannot be read.
std::vector<std::string> safetensors_stems(const std::string& directory);

}  // namespace attnspec::verify
