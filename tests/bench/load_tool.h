#pragma once

// What the load generators grpc_load and tcp_load share: ready-made messages
// from a file, and what came of them as one line of JSON.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

#include "engine/base/file.h"
#include "tests/bench/bench.h"
#include "tests/bench/load_client.h"
#include "tests/support/status_matchers.h"

namespace quern {

// The messages of a file, each after its length as 32 bits, least byte first.
// A file that holds none is the end of the program.
inline std::vector<std::string> ReadMessages(const std::string& path) {
  const std::string bytes = ValueOrDie(ReadFile(path));
  std::vector<std::string> messages;
  for (size_t at = 0; at + 4 <= bytes.size();) {
    uint32_t length = 0;
    std::memcpy(&length, bytes.data() + at, 4);
    messages.push_back(bytes.substr(at + 4, length));
    at += 4 + length;
  }
  if (messages.empty()) {
    std::cerr << path << " holds no message\n";
    std::exit(1);
  }
  return messages;
}

inline void PrintReport(const LoadReport& report) {
  const std::vector<double> ms = report.LatenciesMs(grpc::StatusCode::OK);
  int64_t failed = 0;
  for (const CallOutcome& call : report.calls) {
    failed += call.code != grpc::StatusCode::OK;
  }
  std::cout << nlohmann::json{{"calls", report.calls.size()},
                              {"failed", failed},
                              {"calls_per_second", report.OkRate()},
                              {"p50_ms", Quantile(ms, 0.5)},
                              {"p99_ms", Quantile(ms, 0.99)},
                              {"client_cpu_ms",
                               1e3 * report.client_cpu_seconds /
                                   (report.OkRate() *
                                    (report.end - report.begin))}}
            << "\n";
}

}  // namespace quern
