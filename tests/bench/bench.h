#pragma once

// What the benchmarks share: the table of rows, time and memory of a process,
// pictures from a folder.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "grpcpp/support/status.h"
#include "nlohmann/json.hpp"
#include <sys/types.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "tests/support/status_matchers.h"

namespace quern {

struct Row {
  std::string measure;
  double value = 0;
  std::string unit;
  double goal = 0;  // 0: only context.
  bool higher_is_better = false;
};

inline void Print(const std::vector<Row>& rows) {
  for (const Row& row : rows) {
    const std::string goal =
        row.goal == 0
            ? ""
            : absl::StrFormat("%s %g",
                              row.higher_is_better ? ">=" : "<=", row.goal);
    absl::PrintF("%-52s %10.3f %-11s %s\n", row.measure, row.value, row.unit,
                 goal);
  }
}

inline void WriteJson(const std::vector<Row>& rows, const std::string& path) {
  nlohmann::json list = nlohmann::json::array();
  for (const Row& row : rows) {
    list.push_back(
        {{"measure", row.measure},
         {"value", row.value},
         {"unit", row.unit},
         {"goal", row.goal == 0 ? nlohmann::json() : nlohmann::json(row.goal)},
         {"better", row.higher_is_better ? "higher" : "lower"}});
  }
  std::ofstream(path) << list.dump(1) << "\n";
}

// The smallest value that `share` of the values do not exceed; 0 for none.
inline double Quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const auto rank = static_cast<size_t>(
      std::ceil(share * static_cast<double>(values.size())));
  return values[std::clamp<size_t>(rank, 1, values.size()) - 1];
}

inline double Median(const std::vector<double>& values) {
  return Quantile(values, 0.5);
}

inline double SecondsOf(const std::function<void()>& work) {
  const absl::Time start = absl::Now();
  work();
  return absl::ToDoubleSeconds(absl::Now() - start);
}

// Ends the program on an error.
inline void Check(const grpc::Status& status) {
  if (status.ok()) return;
  std::cerr << status.error_message() << "\n";
  std::exit(1);
}

// Resident bytes of a process.
inline double ResidentMebibytes(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/statm"));
  int64_t size = 0, resident = 0;
  file >> size >> resident;
  return static_cast<double>(resident * sysconf(_SC_PAGESIZE)) / (1 << 20);
}

// Processor time that all threads of a process have used, in seconds.
inline double CpuSeconds(pid_t pid) {
  clockid_t clock;
  timespec time{};
  if (clock_getcpuclockid(pid, &clock) != 0) return 0;
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) +
         1e-9 * static_cast<double>(time.tv_nsec);
}

// The encoded bytes of at most `limit` pictures, in the order of their paths.
inline std::vector<std::string> ReadPictures(const std::string& folder,
                                             size_t limit) {
  std::vector<std::string> paths;
  for (const auto& entry :
       std::filesystem::recursive_directory_iterator(folder)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".jpg" || extension == ".png") {
      paths.push_back(entry.path().string());
    }
  }
  std::sort(paths.begin(), paths.end());
  if (paths.size() > limit) paths.resize(limit);
  std::vector<std::string> pictures;
  pictures.reserve(paths.size());
  for (const std::string& path : paths) {
    pictures.push_back(ValueOrDie(ReadFile(path)));
  }
  return pictures;
}

}  // namespace quern
