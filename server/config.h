#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"

#include "quern/v1/config.pb.h"

// The server's configuration: quern.v1.Config, filled from defaults, a YAML
// file, the environment and the command line, in this order.

namespace quern {

// The values that config.proto documents. QUERN_CACHE and XDG_CACHE_HOME say
// where the default model package lies.
v1::Config DefaultConfig();

// Of a checked configuration.
absl::Duration DurationOf(const google::protobuf::Duration& duration);

// Puts the keys of a YAML text over `config`; the others stay. `name` stands
// for the file in errors.
// Errors: kInvalidArgument, "NAME:LINE: server.adress: unknown key; ...", for
// text that is not YAML, an unknown or repeated key, a value of the wrong type
// or out of range. `config` is then half changed.
absl::Status MergeYaml(absl::string_view yaml, absl::string_view name,
                       v1::Config& config);

// MergeYaml() of a file. Errors: also those of reading it.
absl::Status MergeFile(const std::string& path, v1::Config& config);

// One "server.threads=4". The value of a string field is taken as it is, any
// other is YAML. Errors as for MergeYaml(), with "--set server.threads" for
// the place.
absl::Status MergeAssignment(absl::string_view assignment, v1::Config& config);

// Variables such as QUERN_SERVER__THREADS: after the prefix, two underscores
// stand for a dot. Those without two underscores are not the configuration's
// and are ignored. Errors as for MergeYaml(), with the variable for the place.
absl::Status MergeEnvironment(
    const std::vector<std::pair<std::string, std::string>>& variables,
    v1::Config& config);

// This process's environment, for MergeEnvironment().
std::vector<std::pair<std::string, std::string>> ProcessEnvironment();

// The whole configuration as YAML that MergeYaml() reads back.
std::string ConfigToYaml(const v1::Config& config);

}  // namespace quern
