#pragma once

#include <string>

#include "nlohmann/json.hpp"

namespace quern {

// A folder for one test, empty at first, removed with everything in it at the
// end.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();

  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string PathOf(const std::string& file) const {
    return path_ + "/" + file;
  }

 private:
  std::string path_;
};

void WriteFile(const std::string& file, const std::string& contents);

// A PNG of 8 x 8 pixels of the colour (200, 100, 50).
std::string OrangePng();

// model.json of a package with dimension 2, pictures of 8 x 8 in cells of 4 x
// 4, and every capability of the two towers' global and dense outputs.
nlohmann::json TinyModelJson();

// A canary of the text "a b" and the picture image.png, with the outputs given.
nlohmann::json TinyCanaryJson();

// Writes everything but the towers, which become files that are no TorchScript.
void WriteTinyPackage(const std::string& folder,
                      const nlohmann::json& model = TinyModelJson(),
                      const nlohmann::json& canary = TinyCanaryJson());

}  // namespace quern
