#pragma once

// NumPy's .npy files (format 1.0, C order, two dimensions), which the benches
// share with their Python parts.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace quern {

// "<f4" of float, "<i8" of int64_t.
template <typename T>
std::string NpyType() {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, int64_t>);
  return std::is_same_v<T, float> ? "<f4" : "<i8";
}

// A file's matrix, mapped. Not to be had is the end of the program.
template <typename T>
class NpyFile {
 public:
  explicit NpyFile(const std::string& path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat info {};
    if (file < 0 || fstat(file, &info) != 0) Die(path, "cannot be read");
    size_ = static_cast<size_t>(info.st_size);
    map_ = static_cast<const char*>(
        mmap(nullptr, size_, PROT_READ, MAP_SHARED, file, 0));
    close(file);
    if (map_ == MAP_FAILED) Die(path, "cannot be mapped");
    if (size_ < kPrefix || std::memcmp(map_, "\x93NUMPY\x01", 7) != 0) {
      Die(path, "is not a .npy file of format 1.0");
    }
    const size_t length =
        static_cast<uint8_t>(map_[8]) +
        256 * static_cast<size_t>(static_cast<uint8_t>(map_[9]));
    const std::string header(map_ + kPrefix, std::min(length, size_ - kPrefix));
    if (header.find(NpyType<T>()) == std::string::npos ||
        header.find("'fortran_order': False") == std::string::npos) {
      Die(path, absl::StrCat("does not hold rows of ", NpyType<T>()));
    }
    const size_t shape = header.find("'shape': (");
    if (shape == std::string::npos ||
        std::sscanf(header.c_str() + shape, "'shape': (%ld, %ld)", &rows_,
                    &columns_) != 2 ||
        size_ - kPrefix - length != rows_ * columns_ * sizeof(T)) {
      Die(path, "is cut short, or not of two dimensions");
    }
    data_ = reinterpret_cast<const T*>(map_ + kPrefix + length);
  }
  ~NpyFile() { munmap(const_cast<char*>(map_), size_); }
  NpyFile(const NpyFile&) = delete;
  NpyFile& operator=(const NpyFile&) = delete;

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  const T* data() const { return data_; }
  absl::Span<const T> row(int64_t i) const {
    return {data_ + i * columns_, static_cast<size_t>(columns_)};
  }

 private:
  static constexpr size_t kPrefix = 10;

  [[noreturn]] static void Die(const std::string& path,
                               const std::string& why) {
    std::cerr << path << " " << why << "\n";
    std::exit(1);
  }

  const char* map_ = nullptr;
  size_t size_ = 0;
  int64_t rows_ = 0;
  int64_t columns_ = 0;
  const T* data_ = nullptr;
};

// `values` in rows of `columns`.
inline void WriteNpy(const std::string& path, absl::Span<const float> values,
                     size_t columns) {
  std::string header =
      absl::StrCat("{'descr': '<f4', 'fortran_order': False, 'shape': (",
                   values.size() / columns, ", ", columns, "), }");
  // With its prefix a multiple of 64 bytes, the last one a line's end.
  header.resize((header.size() + 11 + 63) / 64 * 64 - 11, ' ');
  header += '\n';
  std::ofstream file(path, std::ios::binary);
  file << "\x93NUMPY\x01" << '\0' << static_cast<char>(header.size() % 256)
       << static_cast<char>(header.size() / 256) << header;
  file.write(reinterpret_cast<const char*>(values.data()),
             static_cast<std::streamsize>(values.size() * sizeof(float)));
  if (!file.good()) {
    std::cerr << path << " cannot be written\n";
    std::exit(1);
  }
}

}  // namespace quern
