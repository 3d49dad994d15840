#include "engine/query/catalog.h"

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/query/collection_record.h"
#include "tests/query/fake_collection.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

class CatalogTest : public ::testing::Test {
 protected:
  CatalogOptions Options() {
    return {.path = directory_.path() + "/data",
            .max_collections = 3,
            .factories = disk_.Factories(),
            .clock = &clock_};
  }

  std::unique_ptr<Catalog> Open() {
    auto catalog = Catalog::Open(Options());
    EXPECT_TRUE(catalog.ok()) << catalog.status();
    return *std::move(catalog);
  }

  static std::vector<std::string> Names(const Catalog& catalog) {
    std::vector<std::string> names;
    for (const v1::Collection& collection : catalog.List("", 100)) {
      names.push_back(collection.name());
    }
    return names;
  }

  std::vector<fs::path> Folders() {
    std::vector<fs::path> folders;
    for (const auto& entry :
         fs::directory_iterator(directory_.path() + "/data/collections")) {
      folders.push_back(entry.path());
    }
    return folders;
  }

  FakeClock clock_{absl::FromUnixSeconds(1'800'000'000)};
  TemporaryDirectory directory_;
  FakeDisk disk_;
};

TEST_F(CatalogTest, KeepsCollectionsAndTheirItemsAcrossReopening) {
  auto catalog = Open();
  auto created = catalog->Create(Record("photos", 2));
  ASSERT_TRUE(created.ok()) << created.status();
  ASSERT_TRUE((*created)->Upsert({MakeItem("a", {1, 0})}).ok());
  created->reset();
  catalog.reset();
  catalog = Open();
  const auto described = catalog->Describe("photos");
  ASSERT_TRUE(described.ok()) << described.status();
  EXPECT_EQ(described->status().item_count(), 1);
  EXPECT_EQ(described->create_time().seconds(), 1'800'000'000);
}

TEST_F(CatalogTest, ListsInOrderAndByPage) {
  auto catalog = Open();
  for (const char* name : {"b", "c", "a"}) {
    ASSERT_TRUE(catalog->Create(Record(name, 2)).ok());
  }
  EXPECT_THAT(Names(*catalog), ElementsAre("a", "b", "c"));
  const auto page = catalog->List("a", 1);
  ASSERT_THAT(page, SizeIs(1));
  EXPECT_EQ(page[0].name(), "b");
}

TEST_F(CatalogTest, RefusesTakenNamesBadNamesAndTooMany) {
  auto catalog = Open();
  ASSERT_TRUE(catalog->Create(Record("a", 2)).ok());
  EXPECT_EQ(catalog->Create(Record("a", 2)).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(catalog->Create(Record("../a", 2)).status().code(),
            absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(catalog->Create(Record("b", 2)).ok());
  ASSERT_TRUE(catalog->Create(Record("c", 2)).ok());
  const auto fourth = catalog->Create(Record("d", 2));
  EXPECT_EQ(fourth.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(fourth.status().message()),
              HasSubstr("limits.max_collections is 3"));
  EXPECT_THAT(Folders(), SizeIs(3));
}

TEST_F(CatalogTest, DeleteRemovesTheFolderAndFreesTheName) {
  auto catalog = Open();
  ASSERT_TRUE(catalog->Create(Record("a", 2)).ok());
  ASSERT_TRUE((*catalog->Get("a"))->Upsert({MakeItem("x", {1, 0})}).ok());
  const auto deleted = catalog->Delete("a");
  ASSERT_TRUE(deleted.ok());
  EXPECT_EQ(*deleted, 1);
  EXPECT_THAT(Folders(), IsEmpty());
  EXPECT_EQ(catalog->Get("a").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(catalog->Delete("a").status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(catalog->Create(Record("a", 2)).ok());
  EXPECT_EQ(catalog->Describe("a")->status().item_count(), 0);
}

TEST_F(CatalogTest, ADeletedCollectionLivesUntilItsLastUserLetsGo) {
  auto catalog = Open();
  auto collection = *catalog->Create(Record("a", 2));
  ASSERT_TRUE(collection->Upsert({MakeItem("x", {1, 0})}).ok());
  ASSERT_TRUE(catalog->Delete("a").ok());
  ASSERT_TRUE(catalog->Create(Record("a", 2)).ok());
  EXPECT_EQ(collection->store().count(), 1);
  EXPECT_THAT(Folders(), SizeIs(2));
  collection.reset();
  EXPECT_THAT(Folders(), SizeIs(1));
}

TEST_F(CatalogTest, AFolderWithoutARecordIsRubbishOfACrash) {
  Open().reset();
  const std::string rubbish = directory_.path() + "/data/collections/feed";
  fs::create_directories(rubbish + "/items");
  auto catalog = Open();
  EXPECT_FALSE(fs::exists(rubbish));
}

// A shadow of two dimensions for "a" with its item, beside an "a" of three.
TEST_F(CatalogTest, AReplacementIsThereForEverybodyAndAfterARestart) {
  auto catalog = Open();
  auto old = *catalog->Create(Record("a", 3));
  ASSERT_TRUE(old->Upsert({MakeItem("x", {1, 0, 0})}).ok());
  auto shadow = *catalog->CreateShadow(Record("a", 2));
  EXPECT_THAT(Names(*catalog), ElementsAre("a"));
  // What is last may fail.
  EXPECT_EQ(catalog
                ->Replace(old, shadow,
                          [] { return absl::DataLossError("a bad block"); })
                .code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(*catalog->Get("a"), old);
  ASSERT_TRUE(old->Upsert({MakeItem("y", {1, 0, 0})}).ok());

  ASSERT_TRUE(
      catalog
          ->Replace(old, shadow,
                    [&] {
                      return shadow->Import({MakeItem("x", {1, 0})}, {}, 1);
                    })
          .ok());
  EXPECT_EQ(*catalog->Get("a"), shadow);
  EXPECT_TRUE(
      Collection::MustWait(old->Upsert({MakeItem("z", {1, 0, 0})}).status()));
  EXPECT_EQ(Collection::Newest(old), shadow);
  EXPECT_EQ(
      catalog->Replace(old, shadow, [] { return absl::OkStatus(); }).code(),
      absl::StatusCode::kNotFound);
  EXPECT_THAT(Folders(), SizeIs(2));
  old.reset();
  EXPECT_THAT(Folders(), SizeIs(1));
  shadow.reset();
  catalog.reset();
  catalog = Open();
  EXPECT_EQ(catalog->Describe("a")->dimension(), 2);
  EXPECT_EQ((*catalog->Get("a"))->store().count(), 1);
}

// As a crash leaves it at each step of a replacement.
TEST_F(CatalogTest, AReplacementThatACrashEndedIsDoneOrUndone) {
  auto catalog = Open();
  ASSERT_TRUE(catalog->Create(Record("a", 3)).ok());
  catalog.reset();
  const fs::path old = Folders().front();
  const fs::path shadow = old.parent_path() / "feed";
  const auto make_shadow = [&] {
    fs::create_directories(shadow / "items");
    std::ofstream(shadow / "replaces") << old.filename().string();
  };
  make_shadow();
  catalog = Open();
  EXPECT_EQ(catalog->Describe("a")->dimension(), 3) << "no record: undone";
  EXPECT_THAT(Folders(), ElementsAre(old));
  catalog.reset();

  make_shadow();
  ASSERT_TRUE(WriteRecord(shadow.string(), Record("a", 2)).ok());
  for (const char* step : {"both have a record", "all is done"}) {
    catalog = Open();
    EXPECT_EQ(catalog->Describe("a")->dimension(), 2) << step;
    EXPECT_THAT(Folders(), ElementsAre(shadow)) << step;
    EXPECT_FALSE(fs::exists(shadow / "replaces")) << step;
    catalog.reset();
  }
  // The old record was removed, and the server was killed before it said so.
  make_shadow();
  catalog = Open();
  EXPECT_EQ(catalog->Describe("a")->dimension(), 2);
  EXPECT_FALSE(fs::exists(shadow / "replaces"));
}

TEST_F(CatalogTest, ACollectionThatCannotBeOpenedSaysSoAndTheOthersWork) {
  auto catalog = Open();
  ASSERT_TRUE(catalog->Create(Record("bad", 2)).ok());
  const std::string bad_path = disk_.Paths().front();
  ASSERT_TRUE(catalog->Create(Record("good", 2)).ok());
  catalog.reset();
  disk_.Break(bad_path);
  catalog = Open();
  EXPECT_TRUE(catalog->Get("good").ok());
  EXPECT_EQ(catalog->Get("bad").status().code(), absl::StatusCode::kDataLoss);
  const auto described = catalog->Describe("bad");
  ASSERT_TRUE(described.ok());
  EXPECT_EQ(described->status().state(), v1::CollectionStatus::STATE_FAILED);
  EXPECT_THAT(described->status().message(), HasSubstr("a damaged file"));
  EXPECT_THAT(Names(*catalog), ElementsAre("bad", "good"));
  EXPECT_TRUE(catalog->Delete("bad").ok());
  EXPECT_THAT(Names(*catalog), ElementsAre("good"));
}

TEST_F(CatalogTest, ADamagedRecordIsShownAndTheOthersWork) {
  auto catalog = Open();
  ASSERT_TRUE(catalog->Create(Record("a", 2)).ok());
  const fs::path folder = Folders().front();
  const std::string uid = folder.filename().string();
  const std::string record = (folder / "collection.json").string();
  ASSERT_TRUE(catalog->Create(Record("good", 2)).ok());
  for (const char* bytes : {"{", "", "[]", "{}", R"({"name": "../a"})",
                            R"({"nam": "a", "dimension": 2})"}) {
    catalog.reset();
    std::ofstream(record) << bytes;
    catalog = Open();
    EXPECT_THAT(Names(*catalog), UnorderedElementsAre(uid, "good")) << bytes;
    EXPECT_TRUE(catalog->Get("good").ok()) << bytes;
    EXPECT_EQ(catalog->Get(uid).status().code(), absl::StatusCode::kDataLoss);
    const v1::CollectionStatus status = catalog->Describe(uid)->status();
    EXPECT_EQ(status.state(), v1::CollectionStatus::STATE_FAILED);
    EXPECT_THAT(status.message(), HasSubstr(record)) << bytes;
    EXPECT_TRUE(fs::exists(record)) << bytes;
  }
}

TEST_F(CatalogTest, ADamagedRecordKeepsItsNameWhereThatCanBeRead) {
  auto catalog = Open();
  ASSERT_TRUE(catalog->Create(Record("a", 2)).ok());
  catalog.reset();
  const fs::path folder = Folders().front();
  std::ofstream(folder / "collection.json")
      << R"({"name": "a", "dimension": "two"})";
  catalog = Open();
  EXPECT_THAT(Names(*catalog), ElementsAre("a"));
  const absl::Status status = catalog->Get("a").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr(folder.string()));
  EXPECT_EQ(catalog->Create(Record("a", 2)).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(catalog->Delete("a").ok());
  EXPECT_THAT(Folders(), IsEmpty());
}

TEST_F(CatalogTest, ARecordOfANewerVersionIsRefusedByName) {
  auto catalog = Open();
  ASSERT_TRUE(catalog->Create(Record("a", 2)).ok());
  catalog.reset();
  const std::string record = (Folders().front() / "collection.json").string();
  std::ofstream(record)
      << R"({"format_version": 2, "name": "a", "whatever": {"comes": 1}})";
  catalog = Open();
  const absl::Status status = catalog->Get("a").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(record), HasSubstr("newer version of Quern"),
                    HasSubstr("run that version")));
}

TEST_F(CatalogTest, ARecordWithoutAVersionIsReadAndGetsOne) {
  auto catalog = Open();
  ASSERT_TRUE(catalog->Create(Record("a", 2)).ok());
  catalog.reset();
  const std::string record = (Folders().front() / "collection.json").string();
  EXPECT_THAT(*ReadFile(record), HasSubstr("\"format_version\": 1"));
  std::ofstream(record) << R"({"name": "a", "model": "none", "dimension": 2})";
  catalog = Open();
  ASSERT_TRUE(catalog->Get("a").ok()) << catalog->Get("a").status();
  ASSERT_TRUE(catalog
                  ->Update("a",
                           [](v1::Collection& changed) {
                             changed.set_description("new");
                             return absl::OkStatus();
                           })
                  .ok());
  EXPECT_THAT(*ReadFile(record), HasSubstr("\"format_version\": 1"));
}

// Whatever is in `replaces`, nothing else is removed because of it.
TEST_F(CatalogTest, ADamagedReplacementRemovesNothing) {
  auto catalog = Open();
  ASSERT_TRUE(catalog->Create(Record("a", 2)).ok());
  ASSERT_TRUE(catalog->Create(Record("b", 2)).ok());
  catalog.reset();
  const fs::path folder = Folders().front();
  for (const char* name : {"", ".", "..", "none", "../collections"}) {
    std::ofstream(folder / "replaces") << name;
    catalog = Open();
    EXPECT_THAT(Names(*catalog), ElementsAre("a", "b")) << name;
    EXPECT_EQ(catalog->Opened().size(), 2u);
    catalog.reset();
  }
}

TEST_F(CatalogTest, OfTwoFoldersOfOneNameOneIsRefused) {
  auto catalog = Open();
  ASSERT_TRUE(catalog->Create(Record("a", 2)).ok());
  catalog.reset();
  fs::copy(Folders().front(), directory_.path() + "/data/collections/twin",
           fs::copy_options::recursive);
  catalog = Open();
  EXPECT_EQ(catalog->Opened().size(), 1u);
  EXPECT_TRUE(catalog->Get("a").ok());
  EXPECT_EQ(catalog->List("", 100).size(), 2u);
}

TEST_F(CatalogTest, ASecondCatalogOnTheFolderIsRefused) {
  auto catalog = Open();
  EXPECT_EQ(Catalog::Open(Options()).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace quern
