#include "tests/model/package_writer.h"

#include <filesystem>
#include <fstream>

#include "absl/strings/escaping.h"
#include "gtest/gtest.h"

namespace quern {

namespace fs = std::filesystem;
using Json = nlohmann::json;

TemporaryFolder::TemporaryFolder() {
  std::string name = (fs::temp_directory_path() / "quern-test-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) {
    ADD_FAILURE() << "cannot make a folder like " << name;
  }
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void WriteFile(const std::string& file, const std::string& contents) {
  std::ofstream stream(file, std::ios::binary);
  stream << contents;
  EXPECT_TRUE(stream.flush().good()) << file;
}

std::string OrangePng() {
  std::string png;
  absl::Base64Unescape(
      "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mM4kWKEFTEMLQkA"
      "VkZXgUFSAJcAAAAASUVORK5CYII=",
      &png);
  return png;
}

Json TinyModelJson() {
  return Json::parse(R"({
    "format_version": 1, "name": "tiny", "version": "1.2",
    "description": "for tests", "licence": "none",
    "embedding": {"dimension": 2, "metric": "cosine"},
    "capabilities": ["image.global", "image.dense", "text.global"],
    "image": {
      "file": "image.ts",
      "methods": {"global": "forward", "dense": "dense"},
      "preprocess": {"width": 8, "height": 8, "resize": "squash",
        "filter": "bilinear", "antialias": true, "pad_rgb": [1, 2, 3],
        "mean": [100, 100, 100], "std": [50, 50, 50]},
      "size_multiple": 4, "dense_stride": 4},
    "text": {
      "file": "text.ts", "methods": {"global": "forward"},
      "tokenizer": {"kind": "wordpiece", "vocabulary": "vocab.txt",
        "lowercase": true, "strip_accents": false, "max_tokens": 8}},
    "canary": {"file": "canary/canary.json"},
    "calibration": {"temperature": 3}, "figures": {"anything": ["goes"]}
  })");
}

Json TinyCanaryJson() {
  return Json::parse(R"({
    "texts": [{"text": "a b", "ids": [2, 4, 5, 3], "embedding": [0.6, 0.8]}],
    "images": [{"file": "image.png", "embedding": [0.8, -0.6]}],
    "tolerance": 0.001
  })");
}

void WriteTinyPackage(const std::string& folder, const Json& model,
                      const Json& canary) {
  fs::create_directories(folder + "/canary");
  WriteFile(folder + "/model.json", model.dump());
  WriteFile(folder + "/canary/canary.json", canary.dump());
  WriteFile(folder + "/canary/image.png", OrangePng());
  WriteFile(folder + "/vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\n");
  WriteFile(folder + "/image.ts", "no tower");
  WriteFile(folder + "/text.ts", "no tower");
}

}  // namespace quern
