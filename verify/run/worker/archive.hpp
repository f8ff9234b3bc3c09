// Values as bytes and back. A struct is described once, by an overload of `fields`, and written and read by that.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "reference/problem.hpp"

namespace attnspec::verify {

/// A struct of this type, const where it is written.
template <class T, class Struct>
concept Is = std::same_as<std::remove_const_t<T>, Struct>;

template <class T>
concept Number = std::is_arithmetic_v<T> || std::is_enum_v<T>;

/// Writes values. Addresses within `arena` become offsets.
class Writer {
 public:
  explicit Writer(std::span<std::byte> arena = {}) : arena_(arena) {}

  template <class... Values>
  void operator()(const Values&... values) {
    (put(values), ...);
  }
  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  template <Number T>
  void put(T value) {
    const auto* begin = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), begin, begin + sizeof value);
  }
  template <class T>
  void put(T* address) {
    if (address == nullptr) return put(std::int64_t{-1});
    const std::int64_t offset = reinterpret_cast<std::byte*>(address) - arena_.data();
    if (offset < 0 || offset > std::ssize(arena_))
      throw std::logic_error("a tensor of a call does not lie in the kernel's memory");
    put(offset);
  }
  void put(const std::span<std::byte>& bytes) {
    put(bytes.data());
    put(std::ssize(bytes));
  }
  void put(const std::string& text) {
    put(std::ssize(text));
    for (const char c : text) put(c);
  }
  template <class T>
  void put(const std::vector<T>& values) {
    put(std::ssize(values));
    for (const T& value : values) put(value);
  }
  template <class T>
  void put(const std::optional<T>& value) {
    put(value.has_value());
    if (value) put(*value);
  }
  template <class T>
  requires std::is_class_v<T>
  void put(const T& value) { fields(*this, value); }

  std::span<std::byte> arena_;
  std::vector<std::byte> bytes_;
};

/// The problems that calls refer to. Read again and again, their offsets stay where they are while they do not grow.
struct Problems {
  reference::MobaProblem moba;
  reference::NsaProblem nsa;
};

/// Reads values as they were written. Throws std::runtime_error where there are none left.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : Reader(bytes, {}, nullptr) {}
  /// Of calls, too, whose tensors lie in `arena`; they must refer to `problems`, which take what is read.
  Reader(std::span<const std::byte> bytes, std::span<std::byte> arena, Problems* problems)
      : bytes_(bytes), arena_(arena), problems_(problems) {}

  template <class... Values>
  void operator()(Values&... values) {
    (get(values), ...);
  }

 private:
  template <Number T>
  void get(T& value) {
    std::memcpy(&value, take(sizeof value), sizeof value);
  }
  template <class T>
  void get(T*& address) {
    const auto offset = get<std::int64_t>();
    address = offset < 0 ? nullptr : reinterpret_cast<T*>(arena_.data() + offset);
  }
  void get(std::span<std::byte>& bytes) {
    std::byte* begin = nullptr;
    get(begin);
    bytes = {begin, static_cast<std::size_t>(get<std::int64_t>())};
  }
  void get(std::string& text) {
    const std::int64_t size = get_size();
    text.assign(reinterpret_cast<const char*>(take(size)), static_cast<std::size_t>(size));
  }
  template <class T>
  void get(std::vector<T>& values) {
    values.resize(static_cast<std::size_t>(get_size()));
    for (T& value : values) get(value);
  }
  template <class T>
  void get(std::optional<T>& value) {
    value.reset();
    if (get<bool>()) get(value.emplace());
  }
  void get(const reference::MobaProblem&) { get(problems_->moba); }
  void get(const reference::NsaProblem&) { get(problems_->nsa); }
  template <class T>
  requires std::is_class_v<T>
  void get(T& value) { fields(*this, value); }
  template <Number T>
  T get() {
    T value;
    get(value);
    return value;
  }

  /// Of what comes next; each element of it has a byte at least.
  std::int64_t get_size() {
    const auto size = get<std::int64_t>();
    require(size);
    return size;
  }
  void require(std::int64_t size) const {
    if (size < 0 || size > std::ssize(bytes_)) throw std::runtime_error("a message is too short");
  }
  const std::byte* take(std::int64_t size) {
    require(size);
    const std::byte* taken = bytes_.data();
    bytes_ = bytes_.subspan(static_cast<std::size_t>(size));
    return taken;
  }

  std::span<const std::byte> bytes_;
  std::span<std::byte> arena_;
  Problems* problems_;
};

}  // namespace attnspec::verify
