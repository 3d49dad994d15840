#include "engine/query/reindex.h"

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "engine/query/upsert_session.h"
#include "tests/query/fake_collection.h"
#include "tests/query/rocksdb_collection.h"
#include "tests/support/await.h"
#include "tests/support/fake_encoder.h"
#include "tests/support/fake_video_decoder.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temporary_directory.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr ItemParts kWhole{
    .payload = true, .embedding = true, .parts = true, .media = true};

// Reads "red" and "blue" as plain pictures; everything else is damaged.
class FakeDecoder final : public ImageDecoder {
 public:
  absl::StatusOr<Image> DoDecode(absl::string_view encoded, int64_t,
                                 int64_t) const override {
    const bool is_red = encoded == "red";
    if (!is_red && encoded != "blue") {
      return absl::InvalidArgumentError("is not a picture");
    }
    Image image{.width = 16, .height = 16};
    for (int i = 0; i < 16 * 16; ++i) {
      image.rgb.push_back(is_red ? 255 : 0);
      image.rgb.push_back(0);
      image.rgb.push_back(is_red ? 0 : 255);
    }
    return image;
  }
};

// Collections of the models "old", of 32 dimensions, and "new", of 16.
class ReindexTest : public ::testing::Test {
 protected:
  ReindexTest()
      : embedder_({.media_roots = {media_.path()}}, &decoder_, &videos_,
                  &pool_) {
    models_.Put(MakeFakeModel("old", 32));
    models_.Put(MakeFakeModel("new", 16));
    OpenCatalog();
  }

  ~ReindexTest() override { pool_.Shutdown(); }

  void OpenCatalog() {
    engine_.reset();
    catalog_.reset();
    catalog_ = ValueOrDie(Catalog::Open({.path = directory_.File("data"),
                                         .factories = RocksdbFactories(),
                                         .clock = &clock_}));
    engine_ = std::make_unique<Engine>(EngineLimits{}, &embedder_, &models_,
                                       catalog_.get());
  }

  std::shared_ptr<Collection> Create(const std::string& name,
                                     const std::string& model,
                                     bool keep_media = true) {
    v1::Collection wanted;
    wanted.set_name(name);
    wanted.set_model(model);
    wanted.mutable_parts()->set_dense(v1::PartsConfig::DENSE_7X7);
    wanted.mutable_parts()->set_keep_media(keep_media);
    ValueOrDie(engine_->CreateCollection(wanted));
    return ValueOrDie(catalog_->Get(name));
  }

  absl::Status Put(Collection& collection, const UpsertInput& input) {
    RequestContext context(&clock_, "test");
    const auto item =
        Await<absl::StatusOr<PreparedItem>>([&](const auto& done) {
          engine_->PrepareItem(context, collection, input, done);
        });
    if (!item.ok()) return item.status();
    return collection.Upsert({item->item}).status();
  }

  // A text, a picture and a video that are kept, and a picture where it lies.
  std::vector<UpsertInput> Mixed() {
    std::ofstream(file_) << "blue";
    return {{.id = "text", .content = TextInput{"a red house"}},
            {.id = "picture", .content = ImageInput{"red"}},
            {.id = "video", .content = VideoInput{"red red blue red"}},
            {.id = "file",
             .content = ImageInput{.uri = file_},
             .payload = "file's payload",
             .media_uri = file_,
             .ttl = absl::Hours(1)}};
  }

  absl::StatusOr<std::string> Run(
      const std::shared_ptr<Collection>& collection,
      const std::string& model = "new",
      const JobReport& report = [](float, const std::string&) {}) {
    const auto reindex = Reindex::Create(engine_.get(), collection, model);
    if (!reindex.ok()) return reindex.status();
    return (*reindex)->Run(context_, report);
  }

  static std::map<std::string, Item> ItemsOf(const Collection& collection) {
    std::map<std::string, Item> items;
    EXPECT_THAT(collection.store().Scan("", kWhole,
                                        [&](Item item) {
                                          std::string id = item.id;
                                          items.emplace(std::move(id),
                                                        std::move(item));
                                          return true;
                                        }),
                IsOk());
    return items;
  }

  std::vector<std::string> Search(const std::string& collection,
                                  const std::string& text) {
    RequestContext context(&clock_, "test");
    const SearchQuery query{.collection = collection,
                            .parts = {{TextInput{text}}}};
    const auto found = Await<absl::StatusOr<SearchResult>>(
        [&](const auto& done) { engine_->Search(context, query, done); });
    EXPECT_THAT(found, IsOk());
    std::vector<std::string> ids;
    if (!found.ok()) return ids;
    for (const SearchHit& hit : found->hits) ids.push_back(hit.item.id);
    return ids;
  }

  size_t Folders() const {
    size_t folders = 0;
    for ([[maybe_unused]] const auto& entry :
         fs::directory_iterator(directory_.File("data/collections"))) {
      ++folders;
    }
    return folders;
  }

  FakeClock clock_{absl::FromUnixSeconds(1'800'000'000)};
  TemporaryDirectory directory_;
  TemporaryDirectory media_;
  const std::string file_ = media_.File("blue.png");
  FakeDecoder decoder_;
  FakeVideoDecoder videos_;
  ThreadPool pool_{{.threads = 2}};
  Embedder embedder_;
  ModelRegistry models_;
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<Engine> engine_;
  RequestContext context_{&clock_, "job", absl::InfiniteFuture(), Lane::kBulk};
};

// The oracle is a collection of the new model that the same was put into.
TEST_F(ReindexTest, EndsAsIfAllHadBeenPutIntoACollectionOfTheNewModel) {
  auto old = Create("photos", "old");
  auto fresh = Create("fresh", "new");
  for (const UpsertInput& input : Mixed()) {
    ASSERT_THAT(Put(*old, input), IsOk());
    ASSERT_THAT(Put(*fresh, input), IsOk());
  }
  const auto before = ItemsOf(*old);
  EXPECT_EQ(before.at("text").media, "a red house");
  EXPECT_EQ(before.at("file").media, "blue");
  clock_.Advance(absl::Seconds(100));
  EXPECT_THAT(Run(old), IsOkAndHolds(HasSubstr("4 items with model \"new\"")));

  auto now = ValueOrDie(catalog_->Get("photos"));
  EXPECT_EQ(now->record().model(), "new");
  EXPECT_EQ(now->record().model_fingerprint(), "fingerprint-of-new");
  EXPECT_EQ(now->dimension(), 16);
  EXPECT_EQ(now->record().create_time().seconds(),
            old->record().create_time().seconds());
  EXPECT_GT(now->index_version(), old->index_version());
  auto expected = ItemsOf(*fresh);
  const auto after = ItemsOf(*now);
  ASSERT_EQ(after.size(), 4U);
  for (const auto& [id, item] : after) {
    EXPECT_EQ(item.embedding, expected[id].embedding) << id;
    EXPECT_EQ(item.parts, expected[id].parts) << id;
    const Item& was = before.at(id);
    EXPECT_EQ(item.media, was.media) << id;
    EXPECT_EQ(item.payload, was.payload) << id;
    EXPECT_EQ(item.sequence, was.sequence) << id;
    EXPECT_EQ(item.create_time, was.create_time) << id;
    EXPECT_EQ(item.update_time, was.update_time) << id;
    EXPECT_EQ(item.expire_time, was.expire_time) << id;
    EXPECT_NE(item.embedding, was.embedding) << id;
  }
  EXPECT_EQ(Search("photos", "red"), Search("fresh", "red"));
  // Whoever still has the old one reads it, and writes to the new one.
  EXPECT_EQ(ItemsOf(*old).size(), 4U);
  EXPECT_THAT(old->Delete({"text"}), IsOkAndHolds(1));
  EXPECT_EQ(ItemsOf(*now).count("text"), 0U);

  EXPECT_EQ(Folders(), 3U);
  old.reset();
  now.reset();
  fresh.reset();
  EXPECT_EQ(Folders(), 2U);
  OpenCatalog();
  EXPECT_EQ(ValueOrDie(catalog_->Get("photos"))->dimension(), 16);
  EXPECT_EQ(Search("photos", "red").size(), 3U);
  EXPECT_EQ(Folders(), 2U);
}

TEST_F(ReindexTest, MediaThatIsNotKeptIsReadFromItsUri) {
  const auto old = Create("photos", "old", /*keep_media=*/false);
  ASSERT_THAT(Put(*old, Mixed()[3]), IsOk());
  EXPECT_EQ(ItemsOf(*old).at("file").media, "");
  std::ofstream(file_) << "red";
  EXPECT_THAT(Run(old), IsOk());
  const auto fresh = Create("fresh", "new");
  ASSERT_THAT(Put(*fresh, {.id = "x", .content = ImageInput{"red"}}), IsOk());
  EXPECT_EQ(ItemsOf(*ValueOrDie(catalog_->Get("photos"))).at("file").embedding,
            ItemsOf(*fresh).at("x").embedding);
}

TEST_F(ReindexTest, ItemsThatCannotBeEmbeddedEndItBeforeTheSwap) {
  const auto old = Create("photos", "old", /*keep_media=*/false);
  for (const UpsertInput& input : Mixed()) {
    ASSERT_THAT(Put(*old, input), IsOk());
  }
  fs::remove(file_);
  EXPECT_THAT(
      Run(old),
      StatusIs(absl::StatusCode::kFailedPrecondition,
               AllOf(HasSubstr("4 items of 4"), HasSubstr("\"picture\": its"),
                     HasSubstr("keep_media"), HasSubstr("blue.png"),
                     HasSubstr("and others. Upsert"))));
  EXPECT_EQ(ValueOrDie(catalog_->Get("photos")), old);
  EXPECT_EQ(Folders(), 1U);
  EXPECT_THAT(Put(*old, {.id = "x", .content = TextInput{"red"}}), IsOk());
  // Without those, it goes on.
  EXPECT_THAT(old->Delete({"text", "picture", "video", "file", "x"}),
              IsOkAndHolds(5));
  EXPECT_THAT(Run(old), IsOk());
}

TEST_F(ReindexTest, ReadyMadeEmbeddingsStayWithTheirModel) {
  const auto old = Create("photos", "old");
  const UpsertInput ready{
      .id = "ready", .content = EmbeddingInput{std::vector<float>(32, 0.5F)}};
  ASSERT_THAT(Put(*old, Mixed()[0]), IsOk());
  ASSERT_THAT(Put(*old, ready), IsOk());
  EXPECT_THAT(Run(old),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("1 of 2"), HasSubstr("\"ready\""))));
  // The same package changes nothing for them.
  const auto before = ItemsOf(*old);
  EXPECT_THAT(Run(old, "old"), IsOk());
  const auto now = ValueOrDie(catalog_->Get("photos"));
  EXPECT_NE(now, old);
  EXPECT_EQ(ItemsOf(*now).at("ready").embedding, before.at("ready").embedding);
  EXPECT_EQ(ItemsOf(*now).at("text").embedding, before.at("text").embedding);
}

TEST_F(ReindexTest, RefusesModelsThatCannotDoIt) {
  const auto old = Create("photos", "old");
  EXPECT_THAT(Run(old, "none"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("none")));
  EXPECT_THAT(Run(old, "unknown"), StatusIs(absl::StatusCode::kNotFound));
  models_.Put(MakeFakeModel("coarse", 16, {"image.global", "text.global"}));
  EXPECT_THAT(Run(old, "coarse"),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("image.dense")));
  v1::Collection texts;
  texts.set_name("texts");
  texts.set_model("old");
  texts.mutable_parts()->set_keep_media(true);
  texts.mutable_parts()->set_frames_per_second(0);
  ValueOrDie(engine_->CreateCollection(texts));
  const auto collection = ValueOrDie(catalog_->Get("texts"));
  ASSERT_THAT(Put(*collection, Mixed()[0]), IsOk());
  models_.Put(MakeFakeModel("blind", 16, {"image.global"}));
  EXPECT_THAT(Run(collection, "blind"),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("text.global")));
  EXPECT_EQ(Folders(), 2U);
}

TEST_F(ReindexTest, WhatIsWrittenMeanwhileIsTakenOver) {
  const auto old = Create("photos", "old");
  for (const char* id : {"changed", "deleted", "same", "updated"}) {
    ASSERT_THAT(Put(*old, {.id = id, .content = TextInput{"a red house"}}),
                IsOk());
  }
  bool written = false;
  EXPECT_THAT(
      Run(old, "new",
          [&](float progress, const std::string&) {
            EXPECT_LE(progress, 1);
            if (std::exchange(written, true)) return;
            for (const char* id : {"changed", "added", "gone"}) {
              ASSERT_THAT(Put(*old, {.id = id, .content = ImageInput{"blue"}}),
                          IsOk());
            }
            ASSERT_THAT(old->Delete({"deleted", "gone"}), IsOkAndHolds(2));
            ASSERT_THAT(old->Update("updated",
                                    [](Item& item) {
                                      item.payload = "new payload";
                                      return absl::OkStatus();
                                    }),
                        IsOk());
          }),
      IsOk());
  ASSERT_TRUE(written);
  const auto fresh = Create("fresh", "new");
  for (const char* id : {"same", "updated"}) {
    ASSERT_THAT(Put(*fresh, {.id = id, .content = TextInput{"a red house"}}),
                IsOk());
  }
  for (const char* id : {"changed", "added"}) {
    ASSERT_THAT(Put(*fresh, {.id = id, .content = ImageInput{"blue"}}), IsOk());
  }
  const auto now = ValueOrDie(catalog_->Get("photos"));
  auto items = ItemsOf(*now);
  const auto expected = ItemsOf(*fresh);
  ASSERT_EQ(items.size(), expected.size());
  for (const auto& [id, item] : expected) {
    EXPECT_EQ(items[id].embedding, item.embedding) << id;
    EXPECT_EQ(items[id].parts, item.parts) << id;
  }
  EXPECT_EQ(items["updated"].payload, "new payload");
  for (const auto& [id, item] : ItemsOf(*old)) {
    EXPECT_EQ(items[id].sequence, item.sequence) << id;
  }
  EXPECT_EQ(now->store().last_sequence(), old->store().last_sequence());
}

// Writers and a searcher that never stop. Every result is checked when it
// comes, and in the end all of it against a collection of the new model.
TEST_F(ReindexTest, NoCallFailsOverTheSwap) {
  constexpr int kWriters = 3;
  constexpr int kIds = 20;  // Of each writer.
  const auto old = Create("photos", "old");
  for (int i = 0; i < 100; ++i) {
    ASSERT_THAT(Put(*old, {.id = absl::StrCat("first", i),
                           .content = TextInput{"a red house"}}),
                IsOk());
  }
  std::atomic<bool> stop = false;
  std::atomic<int> after_swap = 0;  // Rounds of the writers.
  std::vector<std::map<std::string, std::optional<std::string>>> written(
      kWriters);
  std::vector<std::thread> threads;
  for (int w = 0; w < kWriters; ++w) {
    threads.emplace_back([&, w] {
      RequestContext context(&clock_, "writer");
      for (int round = 0; !stop; ++round) {
        const std::string id = absl::StrCat("w", w, "-", round % kIds);
        const std::string text = absl::StrCat("word", w, " word", round);
        const auto result = Await<UpsertResult>([&](const auto& done) {
          UpsertSession::Create(engine_.get(), &pool_, &context,
                                ValueOrDie(catalog_->Get("photos")),
                                [done](std::vector<UpsertResult> results) {
                                  done(results.at(0));
                                })
              ->Add({.id = id, .content = TextInput{text}}, nullptr);
        });
        EXPECT_THAT(result.status, IsOk());
        written[w][id] = text;
        // An etag is good on both sides of the swap.
        const auto collection = ValueOrDie(catalog_->Get("photos"));
        const auto stored = ValueOrDie(collection->store().Get({id}, {}));
        EXPECT_TRUE(stored[0].has_value()) << "read after write";
        if (round % 3 == 0) {
          EXPECT_THAT(collection->Update(id,
                                         [](Item& item) {
                                           item.payload = "updated";
                                           return absl::OkStatus();
                                         }),
                      IsOk());
        }
        if (round % 7 == 0) {
          EXPECT_THAT(collection->Delete({id}), IsOkAndHolds(1));
          written[w][id] = std::nullopt;
        }
        if (collection->record().model() == "new") ++after_swap;
      }
    });
  }
  threads.emplace_back([&] {
    while (!stop) {
      const auto found = Search("photos", "a red house");
      EXPECT_EQ(found.size(), 10U);
      for (const std::string& id : found) EXPECT_THAT(id, HasSubstr("first"));
    }
  });
  EXPECT_THAT(Run(old), IsOk());
  while (after_swap < 3 * kIds) std::this_thread::yield();
  stop = true;
  for (std::thread& thread : threads) thread.join();

  const auto fresh = Create("fresh", "new");
  for (const auto& texts : written) {
    for (const auto& [id, text] : texts) {
      if (!text.has_value()) continue;
      ASSERT_THAT(Put(*fresh, {.id = id, .content = TextInput{*text}}), IsOk());
    }
  }
  auto items = ItemsOf(*ValueOrDie(catalog_->Get("photos")));
  const auto expected = ItemsOf(*fresh);
  EXPECT_EQ(items.size(), expected.size() + 100);
  for (const auto& [id, item] : expected) {
    EXPECT_EQ(items[id].embedding, item.embedding) << id;
    EXPECT_EQ(items[id].media, item.media) << id;
  }
}

TEST_F(ReindexTest, ADeletedCollectionEndsIt) {
  auto old = Create("photos", "old");
  ASSERT_THAT(Put(*old, Mixed()[0]), IsOk());
  bool deleted = false;
  EXPECT_THAT(Run(old, "new",
                  [&](float, const std::string&) {
                    if (std::exchange(deleted, true)) return;
                    EXPECT_THAT(catalog_->Delete("photos"), IsOk());
                  }),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(catalog_->Get("photos"), StatusIs(absl::StatusCode::kNotFound));
  old.reset();
  EXPECT_EQ(Folders(), 0U);
}

TEST_F(ReindexTest, AStoppedJobLeavesTheCollectionAsItWas) {
  const auto old = Create("photos", "old");
  ASSERT_THAT(Put(*old, Mixed()[0]), IsOk());
  EXPECT_THAT(
      Run(old, "new", [&](float, const std::string&) { context_.Cancel(); }),
      StatusIs(absl::StatusCode::kCancelled));
  EXPECT_EQ(ValueOrDie(catalog_->Get("photos")), old);
  EXPECT_EQ(Folders(), 1U);
  EXPECT_THAT(Put(*old, Mixed()[0]), IsOk());
}

TEST_F(ReindexTest, SettingsAreTakenOverAndThoseOfTheIndexEndIt) {
  auto old = Create("photos", "old");
  ASSERT_THAT(Put(*old, Mixed()[0]), IsOk());
  const auto change = [&](const std::function<void(v1::Collection&)>& set) {
    return [this, set](float, const std::string&) {
      ValueOrDie(catalog_->Update("photos", [&](v1::Collection& record) {
        set(record);
        return absl::OkStatus();
      }));
    };
  };
  EXPECT_THAT(Run(old, "new", change([](v1::Collection& record) {
                    record.mutable_index()->set_target_recall(0.9F);
                  })),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("ask again")));
  EXPECT_THAT(Run(old, "new", change([](v1::Collection& record) {
                    record.set_description("of the holidays");
                  })),
              IsOk());
  EXPECT_EQ(ValueOrDie(catalog_->Get("photos"))->Describe().description(),
            "of the holidays");
  old.reset();
  OpenCatalog();
  EXPECT_EQ(ValueOrDie(catalog_->Describe("photos")).description(),
            "of the holidays");
}

TEST_F(ReindexTest, AModelThatIsUnloadedMeanwhileEndsIt) {
  const auto old = Create("photos", "old");
  ASSERT_THAT(Put(*old, Mixed()[0]), IsOk());
  bool removed = false;
  EXPECT_THAT(Run(old, "new",
                  [&](float, const std::string&) {
                    if (std::exchange(removed, true)) return;
                    EXPECT_THAT(models_.Remove("new"), IsOk());
                  }),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("\"new\", which is not loaded")));
  EXPECT_EQ(ValueOrDie(catalog_->Get("photos")), old);
}

TEST_F(ReindexTest, AStreamThatBeganBeforeTheSwapGoesOn) {
  const auto old = Create("photos", "old");
  ASSERT_THAT(Put(*old, Mixed()[0]), IsOk());
  RequestContext context(&clock_, "writer");
  std::vector<UpsertResult> results;
  absl::Notification done;
  const auto session = UpsertSession::Create(
      engine_.get(), &pool_, &context, old,
      [&](const std::vector<UpsertResult>& some) {
        results.insert(results.end(), some.begin(), some.end());
        if (results.size() == 3) done.Notify();
      });
  ASSERT_THAT(Run(old), IsOk());
  // The stream began before the swap.
  session->Add({.id = "x", .content = TextInput{"red"}}, nullptr);
  session->Add(
      {.id = "y", .content = EmbeddingInput{std::vector<float>(32, 0.5F)}},
      nullptr);
  session->AddRefused("z", absl::InvalidArgumentError("refused"));
  done.WaitForNotification();
  EXPECT_THAT(results[0].status, IsOk());
  EXPECT_THAT(results[1].status,
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("the collection's dimension is 16")));
  EXPECT_THAT(results[2].status, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(ItemsOf(*ValueOrDie(catalog_->Get("photos"))).count("x"), 1U);
}

}  // namespace
}  // namespace quern
