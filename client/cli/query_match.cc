#include "client/cli/query_match.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "client/cli/eval_figures.h"

namespace quern::cli {
namespace {

std::vector<std::string> OnlyIn(const std::vector<std::string>& names,
                                const std::vector<std::string>& others) {
  const std::set<std::string> known(others.begin(), others.end());
  std::vector<std::string> only;
  for (const std::string& name : names) {
    if (known.count(name) == 0) only.push_back(name);
  }
  return only;
}

}  // namespace

absl::Status CheckSameQueries(const std::string& id_name,
                              const std::vector<std::string>& queries,
                              const std::vector<std::string>& predictions) {
  std::vector<std::string> problems;
  const auto add = [&](const std::string& what,
                       const std::vector<std::string>& only, size_t total,
                       const std::string& of) {
    if (only.empty()) return;
    problems.push_back(absl::StrCat("no ", what, " for ", only.size(), " of ",
                                    total, " ", of, " (", id_name, " ",
                                    NameSome(only), ")"));
  };
  add("prediction", OnlyIn(queries, predictions), queries.size(), "queries");
  add("query", OnlyIn(predictions, queries), predictions.size(), "predictions");
  if (problems.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      absl::StrJoin(problems, "; "),
      "; --allow-missing measures the queries that both files have"));
}

}  // namespace quern::cli
