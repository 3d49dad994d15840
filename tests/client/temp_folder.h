#pragma once

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/support/temporary_directory.h"

namespace quern {

// A folder of files that lives as long as the test.
class TempFolder {
 public:
  const std::filesystem::path& path() const { return path_; }

  // Makes the folders on the way, too.
  std::filesystem::path Write(const std::filesystem::path& name,
                              const std::string& content) const {
    const std::filesystem::path file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << content;
    return file;
  }

  std::string Read(const std::filesystem::path& name) const {
    std::ifstream file(path_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

 private:
  const TemporaryDirectory directory_;
  const std::filesystem::path path_{directory_.path()};
};

}  // namespace quern
