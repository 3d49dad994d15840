#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "gtest/gtest.h"

#include "engine/base/file.h"
#include "engine/base/sha256.h"
#include "engine/snapshot/manifest.h"
#include "engine/snapshot/snapshot_files.h"
#include "tests/support/status_matchers.h"

namespace quern {

inline void WriteFile(const std::string& path, const std::string& contents) {
  std::filesystem::create_directories(
      std::filesystem::path(path).parent_path());
  std::ofstream file(path, std::ios::binary);
  file << contents;
  ASSERT_TRUE(file.good()) << path;
}

// Paths and contents of the files below `directory`.
inline std::map<std::string, std::string> ReadTree(
    const std::string& directory) {
  std::map<std::string, std::string> files;
  for (const std::string& path : ValueOrDie(ListFiles(directory))) {
    files[path] = ValueOrDie(ReadFile(directory + "/" + path));
  }
  return files;
}

// Files as a snapshot has them, one of them of two pieces of a tar.
inline std::map<std::string, std::string> SomeFiles() {
  return {{"collection.json", "{}"},
          {"index/MANIFEST", "the shards"},
          {"items/000007.sst", std::string((1 << 20) + 12345, 'x')},
          {"items/CURRENT", ""}};
}

inline SnapshotManifest ManifestOf(
    const std::map<std::string, std::string>& files) {
  SnapshotManifest manifest{
      .collection = "photos",
      .name = "monday",
      .item_count = 3,
      .create_time = absl::FromUnixNanos(1'800'000'000'123),
      .model_fingerprint = "f00d"};
  for (const auto& [path, contents] : files) {
    manifest.files.push_back({.path = path,
                              .bytes = static_cast<int64_t>(contents.size()),
                              .sha256 = Sha256Hex(contents)});
  }
  return manifest;
}

inline void WriteSnapshot(const std::string& directory,
                          const std::map<std::string, std::string>& files) {
  for (const auto& [path, contents] : files) {
    WriteFile(directory + "/" + path, contents);
  }
  WriteFile(directory + "/snapshot.json",
            FormatSnapshotManifest(ManifestOf(files)));
}

}  // namespace quern
