// Embeds the pictures and captions that the search bench grows its data from:
// OUT/pictures.npy has a row for each picture that FILE.tsv names, in its order
// of first mention, OUT/captions.npy a row for each line.
//
//   embed_corpus --images DIR --captions FILE.tsv --out DIR

#include <algorithm>
#include <filesystem>
#include <functional>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_split.h"

#include "tests/bench/bench.h"
#include "tests/bench/npy.h"
#include "tests/end_to_end/api.h"
#include "tests/support/quernd_process.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

constexpr size_t kInputsPerCall = 256;

struct Corpus {
  std::vector<std::string> pictures;  // Paths.
  std::vector<std::string> captions;
};

Corpus ReadCorpus(const std::string& images, const std::string& tsv) {
  Corpus corpus;
  absl::flat_hash_set<std::string> seen;
  for (const absl::string_view line :
       absl::StrSplit(ValueOrDie(ReadFile(tsv)), '\n', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> fields =
        absl::StrSplit(line, absl::MaxSplits('\t', 1));
    if (seen.insert(fields.first).second) {
      corpus.pictures.push_back(absl::StrCat(images, "/", fields.first));
    }
    corpus.captions.push_back(fields.second);
  }
  return corpus;
}

// Writes the embeddings of `count` inputs.
void Embed(Api& api, size_t count,
           const std::function<void(size_t index, v1::Input& input)>& fill,
           const std::string& path) {
  std::vector<float> values;
  size_t dimension = 0;
  for (size_t first = 0; first < count; first += kInputsPerCall) {
    v1::EmbedRequest request;
    for (size_t i = first; i < std::min(first + kInputsPerCall, count); ++i) {
      fill(i, *request.add_inputs());
    }
    v1::EmbedResponse response;
    Check(api.Embed(request, &response));
    for (const v1::EmbedResult& result : response.results()) {
      if (result.status().code() != 0) {
        std::cerr << result.status().message() << "\n";
        std::exit(1);
      }
      dimension = static_cast<size_t>(result.embedding().values_size());
      values.insert(values.end(), result.embedding().values().begin(),
                    result.embedding().values().end());
    }
  }
  WriteNpy(path, values, dimension);
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  using namespace quern;  // NOLINT(google-build-using-namespace)
  CLI::App app("Embeds pictures and captions into .npy files");
  std::string images, captions, out;
  app.add_option("--images", images, "Folder of the pictures")->required();
  app.add_option("--captions", captions, "Lines file<TAB>caption")->required();
  app.add_option("--out", out, "Folder of the files, made if needed")
      ->required();
  CLI11_PARSE(app, argc, argv);
  const Corpus corpus = ReadCorpus(images, captions);
  std::filesystem::create_directories(out);
  const TemporaryDirectory data;
  QuerndProcess server(data.File("data"));
  Api api(server);
  Embed(
      api, corpus.captions.size(),
      [&](size_t i, v1::Input& input) { input.set_text(corpus.captions[i]); },
      out + "/captions.npy");
  Embed(
      api, corpus.pictures.size(),
      [&](size_t i, v1::Input& input) {
        input.mutable_image()->set_content(
            ValueOrDie(ReadFile(corpus.pictures[i])));
      },
      out + "/pictures.npy");
  return server.Terminate();
}
