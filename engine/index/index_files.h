#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "engine/base/request_context.h"
#include "engine/index/huge_buffer.h"

// The files of an index, in a folder of its own. README.md describes them.

namespace quern {

// A file that the manifest counts on.
struct IndexFile {
  uint64_t id = 0;  // Part of its name; never used twice.
  uint64_t size = 0;
  uint32_t checksum = 0;  // CRC-32 of all of it.
};

struct IndexManifest {
  struct Segment {
    uint32_t shard = 0;
    IndexFile file;
    std::vector<uint64_t> dead;  // A bit a row; empty: none.
  };

  uint64_t generation = 0;  // Of the index: other indexes' files differ.
  uint32_t dimension = 0;
  uint32_t metric = 0;
  uint32_t shards = 0;
  uint32_t next_row = 0;  // Row numbers below are taken.
  uint64_t next_file = 1;
  uint64_t sequence = 0;  // Of the store: the files have all up to it.
  IndexFile fields;       // The FieldIndex.
  IndexFile queries;      // The QuerySample; id 0: none.
  std::vector<uint8_t> incomplete;  // One per shard; 1: ids may lack.
  std::vector<Segment> segments;
};

std::string SegmentPath(const std::string& directory, uint64_t file_id);
std::string FieldsPath(const std::string& directory, uint64_t file_id);
std::string QueriesPath(const std::string& directory, uint64_t file_id);

uint32_t Checksum(absl::Span<const uint8_t> bytes);

// Writes a file, synced. Errors: kResourceExhausted, kPermissionDenied, ...
absl::StatusOr<IndexFile> WriteIndexFile(const std::string& path, uint64_t id,
                                         absl::Span<const uint8_t> bytes);
// The bytes of a file, checked against what the manifest says of it. Errors:
// kNotFound, kDataLoss, kResourceExhausted.
absl::StatusOr<HugeBuffer> ReadIndexFile(const std::string& path,
                                         const IndexFile& expected);

// Replaces the manifest, atomically and synced.
absl::Status WriteManifest(const std::string& directory,
                           const IndexManifest& manifest);
// Errors: kNotFound: there is none; kDataLoss: damaged or of another format.
absl::StatusOr<IndexManifest> ReadManifest(const std::string& directory);

// Removes files in the folder that the manifest does not name.
void RemoveOtherFiles(const std::string& directory,
                      const IndexManifest& manifest);
// Gives the manifest and its files a second name, by LinkFile(), in a folder
// that is made new.
absl::Status LinkIndexFiles(const std::string& from, const std::string& to,
                            const RequestContext& context);

}  // namespace quern
