#pragma once

#include <optional>
#include <string>

#include <CLI/CLI.hpp>

#include "quern/v1/collections.pb.h"
#include "quern/v1/retrieval.pb.h"

// The options of the fine stage that several commands have.

namespace quern::cli {

struct PartsFlags {
  std::string grid;      // Empty: the server's default.
  std::string encoding;  // Likewise.
  bool searchable = false;
};

// --parts, --parts-encoding and --parts-searchable, of a collection that is
// made. `flags` must outlive `command`.
void AddPartsOptions(CLI::App& command, PartsFlags& flags);
// Nothing without a grid.
void SetParts(const PartsFlags& flags, v1::Collection& collection);

struct RerankFlags {
  std::string method;  // Empty: not.
  std::optional<int> depth;
  std::optional<float> weight;
};

// --rerank, --depth and --weight. `flags` must outlive `command`.
void AddRerankOptions(CLI::App& command, RerankFlags& flags);
// Nothing without a method.
void SetRerank(const RerankFlags& flags, v1::SearchRequest& request);

}  // namespace quern::cli
