#include <cmath>
#include <filesystem>
#include <iterator>
#include <map>
#include <sstream>
#include <stop_token>

#include "nlohmann/json.hpp"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/cli/app.h"
#include "client/cli/text.h"
#include "tests/client/fake_server.h"
#include "tests/client/temp_folder.h"
#include "tests/client/tiny_gif.h"

namespace quern::cli {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// Whole command lines against a server in this process.
class CommandsTest : public testing::Test {
 protected:
  CommandsTest() { environment_["QUERN_ADDRESS"] = server_.address(); }

  // What it prints is in out_ and err_.
  ExitCode Run(const std::vector<std::string>& arguments) {
    out_.str("");
    err_.str("");
    Console console{
        .out = out_,
        .err = err_,
        .getenv =
            [this](const std::string& name) -> std::optional<std::string> {
          const auto found = environment_.find(name);
          if (found == environment_.end()) return std::nullopt;
          return found->second;
        },
        .program_folder = "/nowhere",
        .now = absl::Now,
        .interrupt = interrupt_.get_token(),
        .abort = abort_.get_token()};
    return RunCli(arguments, console);
  }

  ExitCode Index(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"index", folder_.path().string()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Run(arguments);
  }

  void WriteThreePictures() {
    folder_.Write("cat.jpg", "black cat sofa");
    folder_.Write("dog.jpg", "brown dog snow");
    folder_.Write("sub/wren.png", "small bird branch");
  }

  json Output() const { return json::parse(out_.str()); }

  FakeServer server_;
  TempFolder folder_;
  std::map<std::string, std::string> environment_;
  std::stop_source interrupt_;
  std::stop_source abort_;
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(CommandsTest, HelpAndVersionSucceed) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{
           {"--help"},
           {"index", "--help"},
           {"search", "--help"},
           {"collections", "--help"},
           {"collections", "create", "-h"},
           {"status", "--help"},
           {"model", "--help"},
           {"model", "verify", "--help"},
           {"eval", "retrieval", "--help"},
           {"eval", "moments", "--help"},
           {"eval", "grounding", "--help"},
           {"eval", "corpus-moments", "-h"}}) {
    EXPECT_EQ(Run(arguments), ExitCode::kOk);
    EXPECT_THAT(out_.str(), HasSubstr("Usage"));
  }
  EXPECT_EQ(Run({"--version"}), ExitCode::kOk);
  EXPECT_THAT(out_.str(), HasSubstr("quern 0."));
}

TEST_F(CommandsTest, WrongUsageIsTwo) {
  const std::string folder = folder_.path().string();
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{
           {},
           {"fly"},
           {"index"},
           {"index", "/no/such/folder"},
           {"index", folder, "--window", "0"},
           {"search"},
           {"search", "a", "-k", "0"},
           {"search", "a", "-k", "-1"},
           {"search", "a", "-k", "1000000"},
           {"search", "\xff"},
           {"search", "--image", "/no/such/file"},
           {"search", "a", "--unknown"},
           {"search", "a", "--local", "--address", "x:1"},
           {"search", "a", "--data", folder},
           {"collections", "delete", "photos"},
           {"collections", "create"},
           {"collections", "optimize"},
           {"snapshots", "fly"},
           {"snapshots", "create"},
           {"snapshots", "delete", "photos"},
           {"snapshots", "delete", "photos", "s"},
           {"snapshots", "restore", "photos", "s"},
           {"snapshots", "export", "photos", "s"},
           {"snapshots", "export", "photos", "s", folder},
           {"snapshots", "import", "photos", "s"},
           {"model", "fly"},
           {"model", "show"},
           {"model", "load"},
           {"model", "load", "/x", "--precision", "fp64"},
           {"model", "verify", "/no/such/folder"},
           {"model", "verify", folder, "--address", "x:1"},
           {"eval", "retrieval"},
           {"eval", "moments"},
           {"eval", "moments", "--ground-truth", "/dev/null"},
           {"eval", "moments", "--ground-truth", "/dev/null", "--predictions",
            "/dev/null", "--videos", folder},
           {"eval", "moments", "--ground-truth", "/dev/null", "--predictions",
            "/dev/null", "--model", "x"},
           {"eval", "grounding", "--images", folder},
           {"eval", "grounding", "--ground-truth", "/dev/null", "--images",
            folder, "--collection", "x"},
           {"collections", "create", "x", "--parts-encoding", "compressed"},
           {"collections", "create", "x", "--parts", "7x7", "--parts-encoding",
            "zip"},
           {"collections", "create", "x", "--parts-searchable"},
           {"eval", "corpus-moments", "--ground-truth", "/dev/null"},
           {"eval", "moments", "--ground-truth", "/no/such/file",
            "--predictions", "/no/such/file"}}) {
    EXPECT_EQ(Run(arguments), ExitCode::kUsage)
        << testing::PrintToString(arguments);
    EXPECT_THAT(err_.str(), Not(IsEmpty()));
  }
}

TEST_F(CommandsTest, NoServerIsSaidWithTheCure) {
  EXPECT_EQ(Run({"--address", "127.0.0.1:1", "search", "dog"}),
            ExitCode::kError);
  EXPECT_EQ(err_.str(),
            "quern: no server at 127.0.0.1:1: start quernd, or use --local\n");
}

TEST_F(CommandsTest, LocalWithoutAServerBinaryIsSaidWithTheCure) {
  EXPECT_EQ(Run({"--local", "search", "dog"}), ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("set QUERND"));
}

TEST_F(CommandsTest, IndexesAFolder) {
  WriteThreePictures();
  EXPECT_EQ(Index(), ExitCode::kOk);
  EXPECT_THAT(server_.ItemIds("photos"),
              ElementsAre("cat.jpg", "dog.jpg", "sub/wren.png"));
  const v1::Item item = server_.Item("photos", "sub/wren.png");
  EXPECT_EQ(item.payload().fields().at("file").string_value(), "sub/wren.png");
  EXPECT_EQ(item.payload().fields().at("size_bytes").number_value(), 17);
  EXPECT_EQ(item.media_uri(),
            std::filesystem::canonical(folder_.path() / "sub/wren.png"));
  EXPECT_THAT(out_.str(), HasSubstr("Indexed 3 files into \"photos\""));
}

TEST_F(CommandsTest, IndexListsBrokenFilesAtTheEnd) {
  WriteThreePictures();
  folder_.Write("bad.jpg", "BROKEN");
  folder_.Write("empty.png", "");
  EXPECT_EQ(Index(), ExitCode::kPartial);
  EXPECT_EQ(server_.ItemIds("photos").size(), 3);
  EXPECT_THAT(err_.str(), HasSubstr("bad.jpg: image: not a picture"));
  EXPECT_THAT(err_.str(), HasSubstr("empty.png: is empty"));
  EXPECT_THAT(out_.str(), HasSubstr("2 failed"));
}

TEST_F(CommandsTest, IndexSkipsWhatIsStored) {
  WriteThreePictures();
  ASSERT_EQ(Index(), ExitCode::kOk);
  EXPECT_EQ(Index(), ExitCode::kOk);
  EXPECT_EQ(server_.upserts(), 3);
  EXPECT_THAT(out_.str(), HasSubstr("3 unchanged"));
  folder_.Write("dog.jpg", "white dog on snow");
  EXPECT_EQ(Index(), ExitCode::kOk);
  EXPECT_EQ(server_.upserts(), 4);
  EXPECT_EQ(Index({"--force"}), ExitCode::kOk);
  EXPECT_EQ(server_.upserts(), 7);
}

TEST_F(CommandsTest, IndexTakesPayloadAndIdsFromAFile) {
  WriteThreePictures();
  const TempFolder other;
  const auto payload = other.Write(
      "p.jsonl",
      "{\"file\":\"cat.jpg\",\"id\":\"tom\",\"name\":\"Tom\",\"size_bytes\":1}"
      "\n{\"file\":\"gone.jpg\"}\n");
  EXPECT_EQ(Index({"--payload", payload.string()}), ExitCode::kOk);
  EXPECT_THAT(server_.ItemIds("photos"),
              ElementsAre("dog.jpg", "sub/wren.png", "tom"));
  const auto fields = server_.Item("photos", "tom").payload().fields();
  EXPECT_EQ(fields.at("name").string_value(), "Tom");
  EXPECT_EQ(fields.at("size_bytes").number_value(), 14);
  EXPECT_THAT(err_.str(), HasSubstr("line 2 names \"gone.jpg\""));
  // A changed description is a change.
  other.Write("p.jsonl",
              "{\"file\":\"cat.jpg\",\"id\":\"tom\",\"name\":\"T\"}");
  EXPECT_EQ(Index({"--payload", payload.string()}), ExitCode::kOk);
  EXPECT_EQ(server_.upserts(), 4);
}

TEST_F(CommandsTest, IndexRefusesIdsThatDoNotFit) {
  folder_.Write("a.jpg", "dog");
  folder_.Write("b.jpg", "dog");
  const std::string id(600, 'x');
  const TempFolder other;
  const auto payload =
      other.Write("p.jsonl", "{\"file\":\"a.jpg\",\"id\":\"b.jpg\"}\n");
  EXPECT_EQ(Index({"--payload", payload.string()}), ExitCode::kPartial);
  EXPECT_THAT(err_.str(),
              HasSubstr("b.jpg: its id \"b.jpg\" is that of a.jpg"));
  other.Write("p.jsonl", "{\"file\":\"a.jpg\",\"id\":\"" + id + "\"}\n");
  EXPECT_EQ(Index({"--payload", payload.string()}), ExitCode::kPartial);
  EXPECT_THAT(err_.str(),
              HasSubstr("a.jpg: its id has 600 bytes; at most 512"));
}

TEST_F(CommandsTest, IndexRefusesAnotherModelsCollection) {
  WriteThreePictures();
  server_.AddCollection("photos");
  EXPECT_EQ(Index({"--model", "other"}), ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("choose another --collection"));
}

TEST_F(CommandsTest, IndexOfNothingIsAnError) {
  EXPECT_EQ(Index(), ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("no pictures or videos in"));
}

TEST_F(CommandsTest, ABrokenStreamSaysHowToResume) {
  WriteThreePictures();
  server_.BreakUpsertAfter(1);
  EXPECT_EQ(Index({"--window", "1"}), ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("with 2 to go"));
  EXPECT_THAT(err_.str(), HasSubstr("the server goes down"));
  server_.BreakUpsertAfter(-1);
  EXPECT_EQ(Index(), ExitCode::kOk);
  EXPECT_THAT(out_.str(), HasSubstr("Indexed 2 files"));
}

TEST_F(CommandsTest, AnInterruptedIndexSaysHowToResume) {
  WriteThreePictures();
  server_.AddCollection("photos");
  interrupt_.request_stop();
  EXPECT_EQ(Index({"--force"}), ExitCode::kInterrupted);
  EXPECT_THAT(err_.str(), HasSubstr("to resume"));
  EXPECT_EQ(Index(), ExitCode::kInterrupted);
  EXPECT_EQ(Run({"search", "dog"}), ExitCode::kInterrupted);
  EXPECT_EQ(server_.upserts(), 0);
}

TEST_F(CommandsTest, SearchPrintsATable) {
  WriteThreePictures();
  ASSERT_EQ(Index(), ExitCode::kOk);
  EXPECT_EQ(Run({"search", "brown", "dog", "-k", "2"}), ExitCode::kOk);
  EXPECT_THAT(out_.str(), HasSubstr("#  score  id"));
  EXPECT_THAT(out_.str(), HasSubstr("1  0.816  dog.jpg"));
  EXPECT_THAT(out_.str(), HasSubstr("2 of 3 items; search 1.5 ms"));
}

TEST_F(CommandsTest, SearchPrintsJson) {
  WriteThreePictures();
  ASSERT_EQ(Index(), ExitCode::kOk);
  ASSERT_EQ(Run({"search", "small bird", "--json"}), ExitCode::kOk);
  const json output = Output();
  EXPECT_EQ(output["query"]["text"], "small bird");
  ASSERT_EQ(output["hits"].size(), 3);
  EXPECT_EQ(output["hits"][0]["rank"], 1);
  EXPECT_EQ(output["hits"][0]["id"], "sub/wren.png");
  EXPECT_EQ(output["hits"][0]["payload"]["size_bytes"], 17);
  EXPECT_EQ(output["report"]["item_count"], 3);
  EXPECT_EQ(output["report"]["stages_ms"]["search"], 1.5);
}

TEST_F(CommandsTest, SearchTakesPicturesAndItems) {
  WriteThreePictures();
  ASSERT_EQ(Index(), ExitCode::kOk);
  const std::string picture = (folder_.path() / "cat.jpg").string();
  ASSERT_EQ(Run({"search", "--image", picture, "--json"}), ExitCode::kOk);
  EXPECT_EQ(Output()["hits"][0]["id"], "cat.jpg");
  ASSERT_EQ(Run({"search", "--id", "cat.jpg", "--json"}), ExitCode::kOk);
  EXPECT_EQ(Output()["hits"].size(), 2);
  ASSERT_EQ(Run({"search", "dog", "--image", picture, "--json"}),
            ExitCode::kOk);
  EXPECT_EQ(Output()["hits"][1]["id"], "dog.jpg");
}

TEST_F(CommandsTest, SearchWithoutHitsIsFine) {
  WriteThreePictures();
  ASSERT_EQ(Index(), ExitCode::kOk);
  EXPECT_EQ(Run({"search", "dog", "--min-score", "2"}), ExitCode::kOk);
  EXPECT_THAT(out_.str(), HasSubstr("Nothing was found"));
}

TEST_F(CommandsTest, SearchOfAnUnknownCollectionFails) {
  EXPECT_EQ(Run({"search", "dog", "--collection", "none"}), ExitCode::kError);
  EXPECT_EQ(err_.str(), "quern: there is no collection \"none\"\n");
}

TEST_F(CommandsTest, SearchWritesAGallery) {
  folder_.Write("tiny.gif", TinyGif());
  folder_.Write("text.jpg", "dog");
  ASSERT_EQ(Index(), ExitCode::kOk);
  const TempFolder other;
  const std::string page = (other.path() / "page.html").string();
  EXPECT_EQ(Run({"search", "<b>dog", "--html", page}), ExitCode::kOk);
  const std::string html = other.Read("page.html");
  EXPECT_THAT(html, HasSubstr("&lt;b&gt;dog"));
  EXPECT_THAT(html, HasSubstr("data:image/jpeg;base64,/9j/"));
  EXPECT_THAT(html, HasSubstr("no preview"));
  EXPECT_EQ(Run({"search", "dog", "--html", "/no/such/folder/x.html"}),
            ExitCode::kError);
}

TEST_F(CommandsTest, PayloadsCannotDriveTheTerminal) {
  folder_.Write("a.jpg", "dog");
  const TempFolder other;
  const auto payload = other.Write(
      "p.jsonl", "{\"file\":\"a.jpg\",\"title\":\"\\u001b[2Jgone\"}\n");
  ASSERT_EQ(Index({"--payload", payload.string()}), ExitCode::kOk);
  ASSERT_EQ(Run({"search", "dog"}), ExitCode::kOk);
  EXPECT_THAT(out_.str(), HasSubstr("title: \\u{1b}[2Jgone"));
  EXPECT_THAT(out_.str(), Not(HasSubstr("\x1b")));
}

TEST_F(CommandsTest, CollectionsAreMadeShownAndDeleted) {
  EXPECT_EQ(Run({"collections"}), ExitCode::kOk);
  EXPECT_EQ(out_.str(), "There are no collections.\n");
  EXPECT_EQ(Run({"collections", "create", "a", "--model", "m"}), ExitCode::kOk);
  EXPECT_EQ(Run({"collections", "create", "a"}), ExitCode::kError);
  EXPECT_EQ(Run({"collections", "create", "b"}), ExitCode::kOk);
  EXPECT_EQ(Run({"collections", "list", "--json"}), ExitCode::kOk);
  EXPECT_EQ(Output().size(), 2);
  EXPECT_EQ(Run({"collections", "get", "a", "--json"}), ExitCode::kOk);
  EXPECT_EQ(Output()["model"], "m");
  EXPECT_EQ(Run({"collections", "get", "a"}), ExitCode::kOk);
  EXPECT_THAT(out_.str(), HasSubstr("ready"));
  EXPECT_EQ(Run({"collections", "delete", "a"}), ExitCode::kUsage);
  EXPECT_EQ(Run({"collections", "delete", "a", "--yes"}), ExitCode::kOk);
  EXPECT_EQ(Run({"collections", "get", "a"}), ExitCode::kError);
}

TEST_F(CommandsTest, ACollectionDeclaresFields) {
  EXPECT_EQ(Run({"collections", "create", "a", "--field", "year:number",
                 "--field", "a.tags:string[]", "--json"}),
            ExitCode::kOk);
  const nlohmann::json fields = Output()["payload_fields"];
  ASSERT_EQ(fields.size(), 2);
  EXPECT_EQ(fields[0]["path"], "year");
  EXPECT_EQ(fields[0]["type"], "TYPE_NUMBER");
  EXPECT_EQ(fields[1]["path"], "a.tags");
  EXPECT_EQ(fields[1]["type"], "TYPE_STRING");
  EXPECT_EQ(fields[1]["repeated"], true);
  for (const char* field :
       {"year", "year:", ":", "year:int", "year:number[", "year:unspecified"}) {
    EXPECT_EQ(Run({"collections", "create", "b", "--field", field}),
              ExitCode::kUsage)
        << field;
    EXPECT_THAT(err_.str(), HasSubstr("PATH:TYPE"));
  }
}

TEST_F(CommandsTest, StatusShowsHealthModelsAndCollections) {
  server_.AddCollection("photos");
  EXPECT_EQ(Run({"status"}), ExitCode::kOk);
  EXPECT_THAT(out_.str(), HasSubstr("is serving"));
  EXPECT_THAT(out_.str(), HasSubstr("ready, default"));
  EXPECT_THAT(out_.str(), HasSubstr("photos"));
  EXPECT_EQ(Run({"status", "--json"}), ExitCode::kOk);
  EXPECT_EQ(Output()["models"][0]["name"], "word-count");
  server_.SetServing(false);
  EXPECT_EQ(Run({"status"}), ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("NOT_SERVING"));
}

TEST_F(CommandsTest, ModelListAndShow) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"model"}, {"model", "list"}}) {
    EXPECT_EQ(Run(arguments), ExitCode::kOk);
    EXPECT_THAT(out_.str(), HasSubstr("word-count"));
    EXPECT_THAT(out_.str(), HasSubstr("ready, default"));
  }
  EXPECT_EQ(Run({"model", "list", "--json"}), ExitCode::kOk);
  EXPECT_EQ(Output()[0]["name"], "word-count");

  EXPECT_EQ(Run({"model", "show", "word-count"}), ExitCode::kOk);
  EXPECT_THAT(out_.str(), HasSubstr("up to 16 tokens"));
  EXPECT_EQ(Run({"model", "show", "word-count", "--json"}), ExitCode::kOk);
  EXPECT_EQ(Output()["dimension"], FakeServer::kDimension);
  EXPECT_EQ(Run({"model", "show", "nobody"}), ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("no model \"nobody\""));
}

TEST_F(CommandsTest, ModelLoadDefaultAndUnload) {
  EXPECT_EQ(Run({"model", "load", "/srv/./models/other", "--device", "cuda:1",
                 "--precision", "bf16"}),
            ExitCode::kOk)
      << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("Loaded \"other\" 1."));
  EXPECT_EQ(Run({"model", "show", "other", "--json"}), ExitCode::kOk);
  const json other = Output();
  EXPECT_EQ(other["description"], "/srv/models/other");
  EXPECT_EQ(other["device"], "cuda:1");
  EXPECT_EQ(other["precision"], "PRECISION_BF16");
  EXPECT_EQ(other["is_default"], false);

  EXPECT_EQ(Run({"model", "default", "other", "--json"}), ExitCode::kOk);
  EXPECT_EQ(Output()["is_default"], true);
  EXPECT_EQ(Run({"model", "unload", "word-count"}), ExitCode::kOk);
  EXPECT_THAT(out_.str(), HasSubstr("Unloaded \"word-count\""));
  EXPECT_EQ(Run({"model", "unload", "other"}), ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("it is the default model"));
  EXPECT_EQ(Run({"model", "unload", "other", "--force"}), ExitCode::kOk);
  EXPECT_EQ(Run({"model", "list"}), ExitCode::kOk);
  EXPECT_THAT(out_.str(), HasSubstr("There are no models"));
}

TEST_F(CommandsTest, AModelThatCannotBeLoadedIsSaidWithTheCure) {
  EXPECT_EQ(Run({"model", "load", "/srv/models/broken"}), ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("export the package again"));
}

// A package whose canary holds what the server in this process answers, and a
// quernd that leads to it.
class ModelVerifyTest : public CommandsTest {
 protected:
  ModelVerifyTest() {
    environment_.erase("QUERN_ADDRESS");
    const auto binary = folder_.Write(
        "quernd",
        absl::StrCat("#!/bin/sh\necho \"$@\" > ", ArgumentsFile().string(),
                     "\necho 'quernd ready address=", server_.address(),
                     "'\nexec tail -f /dev/null\n"));
    std::filesystem::permissions(binary, std::filesystem::perms::owner_all);
    environment_["QUERND"] = binary.string();
    folder_.Write("package/model.json",
                  R"({"canary": {"file": "canary/canary.json"}})");
    folder_.Write("package/canary/image.png", "grey cat roof");
    WriteCanary(Canary());
  }

  std::filesystem::path ArgumentsFile() const {
    return folder_.path() / "arguments";
  }

  // By hand: one word is all of its text, three share theirs.
  static json Canary() {
    return {{"texts", {{{"text", "dog"}, {"embedding", Unit("dog", 1)}}}},
            {"images",
             {{{"file", "image.png"},
               {"embedding", Unit("grey cat roof", 1 / std::sqrt(3.0F))}}}},
            {"tolerance", 1e-3}};
  }

  // `value` at the place of each word: FNV-1a, as FakeServer documents.
  static std::vector<float> Unit(const std::string& text, float value) {
    std::vector<float> counts(FakeServer::kDimension, 0);
    std::istringstream words(text);
    for (std::string word; words >> word;) {
      uint32_t hash = 2166136261;
      for (const char c : word) {
        hash = (hash ^ static_cast<uint8_t>(c)) * 16777619;
      }
      counts[hash % FakeServer::kDimension] += value;
    }
    return counts;
  }

  void WriteCanary(const json& canary) {
    folder_.Write("package/canary/canary.json", canary.dump());
  }

  ExitCode Verify(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"model", "verify",
                                          (folder_.path() / "package").string(),
                                          "--seconds", "0"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Run(arguments);
  }
};

TEST_F(ModelVerifyTest, ComparesAndMeasures) {
  EXPECT_EQ(Verify({"--device", "cpu", "--precision", "bf16"}), ExitCode::kOk)
      << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("The canary passed"));
  EXPECT_THAT(out_.str(), HasSubstr("largest difference"));
  EXPECT_THAT(out_.str(), HasSubstr("inputs/s"));
  const std::string arguments = folder_.Read("arguments");
  EXPECT_THAT(arguments,
              HasSubstr("models.paths=[\"" +
                        (folder_.path() / "package").string() + "\"]"));
  EXPECT_THAT(arguments, HasSubstr("models.device=cpu"));
  EXPECT_THAT(arguments, HasSubstr("models.precision=bf16"));
}

TEST_F(ModelVerifyTest, PrintsJson) {
  ASSERT_EQ(Verify({"--json"}), ExitCode::kOk) << err_.str();
  const json output = Output();
  EXPECT_EQ(output["passed"], true);
  EXPECT_EQ(output["model"]["name"], "word-count");
  ASSERT_EQ(output["parity"].size(), 2);
  EXPECT_EQ(output["parity"][1]["inputs"], "pictures");
  EXPECT_LT(output["parity"][1]["largest_difference"], 1e-6);
  std::vector<int> sizes;
  for (const json& row : output["speed"]) {
    sizes.push_back(row["inputs_per_call"]);
    EXPECT_GT(row["inputs_per_second"], 0);
  }
  EXPECT_THAT(sizes, ElementsAre(1, 4, 16, 1, 4, 16, 1, 4, 16));
  EXPECT_EQ(server_.max_embed_inputs(), 16);
}

TEST_F(ModelVerifyTest, FindsAnOutputThatTheExporterDidNotSee) {
  json canary = Canary();
  for (json& value : canary["texts"][0]["embedding"]) {
    if (value == 1) value = 0.75;
  }
  WriteCanary(canary);
  EXPECT_EQ(Verify({"--json"}), ExitCode::kError);
  EXPECT_THAT(err_.str(),
              HasSubstr("texts are off by 2.5e-01, allowed are 1.0e-03"));
  EXPECT_THAT(err_.str(), HasSubstr("export it again"));
  EXPECT_EQ(Output()["passed"], false);
  EXPECT_EQ(Output()["parity"][0]["largest_difference"], 0.25);
  EXPECT_EQ(Output()["parity"][1]["passed"], true);
}

TEST_F(ModelVerifyTest, NamesWhatIsBrokenInThePackage) {
  folder_.Write("package/canary/canary.json", "{\"tolerance\": \"much\"}");
  EXPECT_EQ(Verify(), ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("canary.json"));
  std::filesystem::remove(folder_.path() / "package/canary/image.png");
  WriteCanary(Canary());
  EXPECT_EQ(Verify(), ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("image.png"));
  folder_.Write("package/model.json", "[]");
  EXPECT_EQ(Verify(), ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("model.json is not a JSON object"));
}

TEST_F(ModelVerifyTest, TellsWhyTheServerRefusedThePackage) {
  folder_.Write(
      "quernd",
      "#!/bin/sh\necho 'the canary failed: off by 0.3' >&2\nexit 1\n");
  EXPECT_EQ(Verify(), ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("the canary failed: off by 0.3"));
}

TEST_F(CommandsTest, EvalMeasuresBothDirections) {
  WriteThreePictures();
  const TempFolder other;
  const auto captions = other.Write("c.tsv",
                                    "cat.jpg\tblack cat sofa\n"
                                    "cat.jpg\tbrown dog\n"  // Wrong on purpose.
                                    "dog.jpg\tbrown dog snow\n"
                                    "sub/wren.png\tsmall bird branch\n");
  const std::vector<std::string> arguments = {
      "eval",       "retrieval",       "--images", folder_.path().string(),
      "--captions", captions.string(), "--json"};
  ASSERT_EQ(Run(arguments), ExitCode::kOk) << err_.str();
  const json output = Output();
  EXPECT_EQ(output["t2i"]["r1"], 75);
  EXPECT_EQ(output["t2i"]["r5"], 100);
  EXPECT_EQ(output["t2i"]["mdr"], 1);
  EXPECT_EQ(output["i2t"]["r1"], 100);
  EXPECT_EQ(output["rsum"], 575);
  EXPECT_EQ(output["images"], 3);
  EXPECT_EQ(output["captions"], 4);
  EXPECT_GT(server_.max_embed_inputs(), 1);
}

TEST_F(CommandsTest, OptimizesACollection) {
  server_.AddCollection("photos");
  server_.AddCollection("broken");
  EXPECT_EQ(Run({"collections", "optimize", "photos"}), ExitCode::kOk);
  EXPECT_EQ(out_.str(),
            "Optimizing \"photos\" in the background: job job-1.\n");
  EXPECT_EQ(Run({"collections", "optimize", "photos", "--json"}),
            ExitCode::kOk);
  EXPECT_EQ(Output()["state"], "STATE_PENDING");
  EXPECT_FALSE(Output().contains("end_time"));
  EXPECT_EQ(Run({"collections", "optimize", "photos", "--wait"}),
            ExitCode::kOk);
  EXPECT_EQ(out_.str(), "Optimized \"photos\".\n");
  EXPECT_EQ(Run({"collections", "optimize", "photos", "--wait", "--json"}),
            ExitCode::kOk);
  EXPECT_EQ(Output()["state"], "STATE_SUCCEEDED");
  EXPECT_EQ(Output()["progress"], 1);
  EXPECT_EQ(Run({"collections", "optimize", "broken", "--wait"}),
            ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("\"broken\": the disk is full"));
  EXPECT_EQ(Run({"collections", "optimize", "nothing"}), ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("there is no collection \"nothing\""));
}

TEST_F(CommandsTest, ReindexesACollection) {
  server_.AddCollection("photos");
  server_.AddCollection("broken");
  EXPECT_EQ(Run({"collections", "reindex", "photos", "--model", "clip"}),
            ExitCode::kOk);
  EXPECT_EQ(out_.str(), "Reindexing \"photos\" in the background: job clip.\n");
  EXPECT_EQ(
      Run({"collections", "reindex", "photos", "--model", "clip", "--wait"}),
      ExitCode::kOk);
  EXPECT_EQ(out_.str(), "Reindexed \"photos\".\n");
  EXPECT_EQ(
      Run({"collections", "reindex", "broken", "--model", "clip", "--wait"}),
      ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("reindexing \"broken\": the disk is full"));
  EXPECT_EQ(Run({"collections", "reindex", "nothing", "--model", "clip"}),
            ExitCode::kError);
  EXPECT_EQ(Run({"collections", "reindex", "photos"}), ExitCode::kUsage);
  EXPECT_THAT(err_.str(), HasSubstr("--model"));
}

TEST_F(CommandsTest, ManagesSnapshots) {
  WriteThreePictures();
  ASSERT_EQ(Index(), ExitCode::kOk);
  EXPECT_EQ(Run({"snapshots"}), ExitCode::kOk);
  EXPECT_EQ(out_.str(), "There are no snapshots.\n");
  EXPECT_EQ(Run({"snapshots", "create", "photos"}), ExitCode::kOk);
  EXPECT_EQ(out_.str(), "Made \"photos/20261123-184501\": 3 items, 32 B.\n");
  EXPECT_EQ(Run({"snapshots", "create", "photos", "monday", "--json"}),
            ExitCode::kOk);
  EXPECT_EQ(Output()["name"], "monday");
  EXPECT_EQ(Output()["item_count"], 3);
  EXPECT_EQ(Run({"snapshots", "create", "nothing"}), ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("there is no collection \"nothing\""));

  EXPECT_EQ(Run({"snapshots", "list", "--json"}), ExitCode::kOk);
  ASSERT_EQ(Output().size(), 2U);
  EXPECT_EQ(Output()[1]["create_time"], "2027-01-15T08:00:00Z");
  EXPECT_EQ(Run({"snapshots", "list", "photos"}), ExitCode::kOk);
  EXPECT_THAT(out_.str(), HasSubstr("2027-01-15T08:00:00Z"));

  EXPECT_EQ(Run({"snapshots", "restore", "photos", "monday", "again"}),
            ExitCode::kOk);
  EXPECT_THAT(out_.str(), HasSubstr("Made collection \"again\""));
  EXPECT_EQ(server_.ItemIds("again"), server_.ItemIds("photos"));
  EXPECT_EQ(Run({"snapshots", "delete", "photos", "monday"}), ExitCode::kUsage);
  EXPECT_THAT(err_.str(), HasSubstr("--yes"));
  EXPECT_EQ(Run({"snapshots", "delete", "photos", "monday", "--yes"}),
            ExitCode::kOk);
  EXPECT_EQ(Run({"snapshots", "delete", "photos", "monday", "--yes"}),
            ExitCode::kError);
}

TEST_F(CommandsTest, ShowsADamagedSnapshot) {
  WriteThreePictures();
  ASSERT_EQ(Index(), ExitCode::kOk);
  ASSERT_EQ(Run({"snapshots", "create", "photos", "damaged"}), ExitCode::kOk);
  ASSERT_EQ(Run({"snapshots", "create", "photos", "good"}), ExitCode::kOk);
  EXPECT_EQ(Run({"snapshots", "list"}), ExitCode::kOk);
  EXPECT_THAT(out_.str(),
              HasSubstr("\"photos/damaged\": its snapshot.json is damaged\n"));
  EXPECT_THAT(out_.str(), Not(HasSubstr("1970")));
  EXPECT_EQ(Run({"snapshots", "delete", "photos", "damaged", "--yes"}),
            ExitCode::kOk);
}

TEST_F(CommandsTest, ExportsAndImportsASnapshot) {
  WriteThreePictures();
  ASSERT_EQ(Index(), ExitCode::kOk);
  ASSERT_EQ(Run({"snapshots", "create", "photos", "s"}), ExitCode::kOk);
  const TempFolder files;
  const std::string file = (files.path() / "s.tar").string();
  EXPECT_EQ(Run({"snapshots", "export", "photos", "s", file}), ExitCode::kOk);
  EXPECT_EQ(files.Read("s.tar"), "tar\ncat.jpg\ndog.jpg\nsub/wren.png");
  EXPECT_EQ(Run({"snapshots", "export", "photos", "s", file}),
            ExitCode::kUsage);
  EXPECT_THAT(err_.str(), HasSubstr("--force"));
  EXPECT_EQ(Run({"snapshots", "export", "photos", "s", file, "--force"}),
            ExitCode::kOk);
  EXPECT_EQ(Run({"snapshots", "import", "photos", "t", file}), ExitCode::kOk);
  EXPECT_EQ(out_.str(), "Took in \"photos/t\": 3 items, 32 B.\n");
  EXPECT_EQ(Run({"snapshots", "export", "photos", "t", file + "2"}),
            ExitCode::kOk);
  EXPECT_EQ(files.Read("s.tar2"), files.Read("s.tar"));

  // What fails leaves no file behind.
  EXPECT_EQ(Run({"snapshots", "export", "photos", "u", file + "3"}),
            ExitCode::kError);
  EXPECT_EQ(Run({"snapshots", "export", "photos", "t", "/nowhere/x.tar"}),
            ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("/nowhere/x.tar"));
  files.Write("bad.tar", "nonsense");
  EXPECT_EQ(Run({"snapshots", "import", "photos", "v",
                 (files.path() / "bad.tar").string()}),
            ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("not an intact snapshot"));
  EXPECT_EQ(Run({"snapshots", "import", "photos", "v", "/nowhere"}),
            ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("cannot read /nowhere"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(files.path()),
                          std::filesystem::directory_iterator()),
            3);
}

TEST_F(CommandsTest, EvalNamesWhatCannotBeUsed) {
  WriteThreePictures();
  folder_.Write("bad.jpg", "BROKEN");
  const TempFolder other;
  const auto eval = [&](const std::string& text) {
    const auto captions = other.Write("c.tsv", text);
    return Run({"eval", "retrieval", "--images", folder_.path().string(),
                "--captions", captions.string()});
  };
  EXPECT_EQ(eval("cat.jpg\ta cat\nnone.jpg\ta dog\n"), ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("line 2 names none.jpg"));
  EXPECT_EQ(eval("cat.jpg a cat\n"), ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("line 1 has no tab"));
  EXPECT_EQ(eval("cat.jpg\ta cat\nbad.jpg\ta dog\n"), ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("line 2, bad.jpg: image: not a picture"));
  EXPECT_EQ(eval("bad.jpg\ta dog\n"), ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("bad.jpg"));
  EXPECT_EQ(eval("cat.jpg\ta cat\ncat.jpg\ta cat\n"), ExitCode::kOk);
  EXPECT_THAT(err_.str(), HasSubstr("line 2 repeats line 1"));
}

TEST_F(CommandsTest, EvalMomentsPrintsTheOfficialNamesInTheirOrder) {
  const auto truth = folder_.Write(
      "truth.jsonl",
      R"({"qid": 1, "duration": 4, "relevant_windows": [[0, 4]],)"
      R"( "relevant_clip_ids": [0], "saliency_scores": [[2, 3, 4]]})"
      "\n");
  const auto predictions =
      folder_.Write("predictions.jsonl",
                    R"({"qid": 1, "pred_relevant_windows": [[0, 3, 0.5]],)"
                    R"( "pred_saliency_scores": [0.1, 0.9]})"
                    "\n");
  // No server is asked.
  const std::vector<std::string> arguments = {
      "--address",      "127.0.0.1:1",  "eval",          "moments",
      "--ground-truth", truth.string(), "--predictions", predictions.string()};
  std::vector<std::string> as_json = arguments;
  as_json.push_back("--json");
  ASSERT_EQ(Run(as_json), ExitCode::kOk) << err_.str();
  // IoU 0.75 reaches six of ten thresholds. The best clip is the wrong one; the
  // right one comes second for those to whom it is relevant.
  EXPECT_EQ(nlohmann::ordered_json::parse(out_.str()).dump(),
            R"({"MR-full-R1@0.5":100.0,"MR-full-R1@0.7":100.0,)"
            R"("MR-full-mAP":60.0,"MR-full-mAP@0.5":100.0,)"
            R"("MR-full-mAP@0.75":100.0,"MR-long-mAP":null,)"
            R"("MR-middle-mAP":null,"MR-short-mAP":60.0,)"
            R"("HL-min-Fair-mAP":50.0,"HL-min-Fair-Hit1":0.0,)"
            R"("HL-min-Good-mAP":33.33,"HL-min-Good-Hit1":0.0,)"
            R"("HL-min-VeryGood-mAP":16.67,"HL-min-VeryGood-Hit1":0.0})");
  ASSERT_EQ(Run(arguments), ExitCode::kOk) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("MR-short-mAP            60.00\n"));
  EXPECT_THAT(out_.str(), Not(HasSubstr("MR-long-mAP")));
}

TEST_F(CommandsTest, EvalMomentsSaysWhatIsMissing) {
  const auto truth = folder_.Write(
      "truth.jsonl", "{\"qid\": 1, \"relevant_windows\": [[0, 4]]}\n");
  const auto eval = [&](const std::string& text) {
    const auto predictions = folder_.Write("predictions.jsonl", text);
    return Run({"eval", "moments", "--ground-truth", truth.string(),
                "--predictions", predictions.string()});
  };
  EXPECT_EQ(eval("{\"qid\": 2, \"pred_relevant_windows\": []}"),
            ExitCode::kError);
  EXPECT_THAT(err_.str(),
              HasSubstr("no prediction for 1 of 1 queries (qid 1)"));
  EXPECT_EQ(eval("{\"qid\": 1, \"pred_relevant_windows\": []}"), ExitCode::kOk);
  EXPECT_THAT(err_.str(), HasSubstr("they count as missed"));
}

TEST_F(CommandsTest, EvalMomentsAsksAServerAboutEachVideoOnce) {
  const TempFolder videos;
  videos.Write("a.mp4", "cat cat dog bird");
  videos.Write("sub/b.mkv", "tree dog");
  const auto truth = folder_.Write(
      "truth.jsonl",
      R"({"qid": 1, "vid": "a", "query": "cat cat", "duration": 8,)"
      R"( "relevant_windows": [[0, 4]], "relevant_clip_ids": [0, 1],)"
      R"( "saliency_scores": [[4, 4, 4], [4, 4, 4]]})"
      "\n"
      R"({"qid": 2, "vid": "a", "query": "dog", "duration": 8,)"
      R"( "relevant_windows": [[4, 8]], "relevant_clip_ids": [3],)"
      R"( "saliency_scores": [[4, 4, 4]]})"
      "\n"
      R"({"qid": 3, "vid": "sub/b.mkv", "query": "fish", "duration": 4,)"
      R"( "relevant_windows": [[0, 4]], "relevant_clip_ids": [0],)"
      R"( "saliency_scores": [[4, 4, 4]]})");
  ASSERT_EQ(Run({"eval", "moments", "--ground-truth", truth.string(),
                 "--videos", videos.path().string(), "--json"}),
            ExitCode::kOk)
      << err_.str();
  EXPECT_EQ(server_.groundings(), 2);
  const json output = Output();
  // Found exactly; found with IoU 0.5; not found.
  EXPECT_EQ(output["MR-full-R1@0.5"], 66.67);
  EXPECT_EQ(output["MR-full-R1@0.7"], 33.33);
  EXPECT_EQ(output["MR-full-mAP@0.75"], 33.33);
  // The best clip is right, wrong, and the first of equal ones.
  EXPECT_EQ(output["HL-min-Good-Hit1"], 66.67);
  EXPECT_THAT(err_.str(), HasSubstr("1 of 3 queries have no predicted window"));

  const auto charades = folder_.Write("truth.txt",
                                      "a 0.0 4.0##cat cat\n"
                                      "a 4 8##dog\n");
  ASSERT_EQ(Run({"eval", "moments", "--ground-truth", charades.string(),
                 "--videos", videos.path().string(), "--json"}),
            ExitCode::kOk)
      << err_.str();
  EXPECT_EQ(Output().dump(),
            R"({"R1@0.3":100.0,"R1@0.5":100.0,"R1@0.7":50.0,"mIoU":75.0})");
  const auto unknown = folder_.Write("unknown.txt", "c 0 4##cat\n");
  EXPECT_EQ(Run({"eval", "moments", "--ground-truth", unknown.string(),
                 "--videos", videos.path().string()}),
            ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("c is not in "));
}

TEST_F(CommandsTest, EvalGroundingAsksAServerAboutEachPictureOnce) {
  const TempFolder images;
  images.Write("a.jpg", "cat dog dog bird");
  images.Write("broken.jpg", "BROKEN");
  const auto truth = folder_.Write(
      "truth.json", R"([{"file_name": "a.jpg", "bbox": [0, 0, 10, 20],)"
                    R"(  "sentences": [{"sent_id": 1, "sent": "cat"}]},)"
                    R"( {"file_name": "a.jpg", "bbox": [15, 0, 25, 20],)"
                    R"(  "sentences": [{"sent_id": 2, "sent": "dog dog"},)"
                    R"(                {"sent_id": 3, "sent": "bird"}]},)"
                    R"( {"file_name": "a.jpg",)"
                    R"(  "sentences": [{"sent_id": 4, "sent": "fish"}]}])");
  ASSERT_EQ(Run({"eval", "grounding", "--ground-truth", truth.string(),
                 "--images", images.path().string(), "--json"}),
            ExitCode::kOk)
      << err_.str();
  EXPECT_EQ(server_.groundings(), 1);
  // IoU 1, 15/30 and 10/25; the last box's centre, 35, is inside.
  EXPECT_EQ(Output().dump(),
            R"({"Acc@0.5":66.67,"pointing":100.0,"presence-AP":100.0})");
  ASSERT_EQ(
      Run({"eval", "grounding", "--ground-truth", truth.string(), "--images",
           images.path().string(), "--ignore-relations", "--json"}),
      ExitCode::kOk)
      << err_.str();
  EXPECT_EQ(Output()["Acc@0.5"], 33.33);  // Finds the first dog alone, 5/30.
  ASSERT_EQ(
      Run({"eval", "grounding", "--ground-truth", truth.string(), "--images",
           images.path().string(), "--crop-depth", "2", "--json"}),
      ExitCode::kOk)
      << err_.str();
  EXPECT_EQ(Output()["Acc@0.5"], 33.33);  // Half of each: 1/2, 1/4, 1/5.
  const auto broken = folder_.Write(
      "broken.json", R"([{"file_name": "broken.jpg",)"
                     R"(  "sentences": [{"sent_id": 1, "sent": "cat"}]}])");
  EXPECT_EQ(Run({"eval", "grounding", "--ground-truth", broken.string(),
                 "--images", images.path().string()}),
            ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("broken.jpg: image: not a picture"));
}

// The server in this file keeps of an item what its id says.
TEST_F(CommandsTest, EvalGroundingAsksAboutStoredItems) {
  const auto truth = folder_.Write(
      "truth.json", R"([{"file_name": "cat dog", "bbox": [0, 0, 10, 20],)"
                    R"(  "sentences": [{"sent_id": 1, "sent": "cat"}]},)"
                    R"( {"file_name": "cat dog", "bbox": [0, 0, 10, 20],)"
                    R"(  "sentences": [{"sent_id": 2, "sent": "dog"}]}])");
  ASSERT_EQ(Run({"eval", "grounding", "--ground-truth", truth.string(),
                 "--collection", "kept", "--json"}),
            ExitCode::kOk)
      << err_.str();
  EXPECT_EQ(Output().dump(), R"({"Acc@0.5":50.0,"pointing":50.0})");
  const auto videos = folder_.Write("truth.txt", "cat 0.0 2.0##cat\n");
  ASSERT_EQ(Run({"eval", "moments", "--ground-truth", videos.string(),
                 "--collection", "kept", "--json"}),
            ExitCode::kOk)
      << err_.str();
  EXPECT_EQ(Output()["R1@0.7"], 100.0);
  const auto gone = folder_.Write(
      "gone.json", R"([{"file_name": "gone.jpg",)"
                   R"(  "sentences": [{"sent_id": 1, "sent": "cat"}]}])");
  EXPECT_EQ(Run({"eval", "grounding", "--ground-truth", gone.string(),
                 "--collection", "kept"}),
            ExitCode::kError);
  EXPECT_THAT(err_.str(), HasSubstr("gone.jpg: "));
}

TEST_F(CommandsTest, EvalCorpusMomentsPrintsTheOfficialNames) {
  const auto truth =
      folder_.Write("truth.jsonl",
                    "{\"desc_id\": 1, \"vid_name\": \"a\", \"ts\": [0, 10]}\n"
                    "{\"desc_id\": 2, \"vid_name\": \"b\", \"ts\": [0, 10]}\n");
  const auto predictions = folder_.Write(
      "predictions.json",
      R"({"video2idx": {"a": 0, "b": 1}, "VCMR": [)"
      R"({"desc_id": 1, "predictions": [[0, 0, 5, 0.9], [0, 0, 7, 0.5]]},)"
      R"({"desc_id": 2, "predictions": [[0, 0, 10, 0.9]]}]})");
  ASSERT_EQ(Run({"eval", "corpus-moments", "--ground-truth", truth.string(),
                 "--predictions", predictions.string(), "--json"}),
            ExitCode::kOk)
      << err_.str();
  EXPECT_EQ(nlohmann::ordered_json::parse(out_.str()).dump(),
            R"({"0.5-r1":50.0,"0.5-r5":50.0,"0.5-r10":50.0,"0.5-r100":50.0,)"
            R"("0.7-r1":0.0,"0.7-r5":50.0,"0.7-r10":50.0,"0.7-r100":50.0})");
}

}  // namespace
}  // namespace quern::cli
