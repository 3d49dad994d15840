#include "engine/model/model_package.h"

#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "engine/base/error.h"
#include "engine/base/file.h"
#include "engine/base/status_macros.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr absl::string_view kModelFile = "model.json";
constexpr size_t kMaxShownPath = 4096;
constexpr absl::string_view kCure =
    "run scripts/setup, or name a package folder in models.paths";

std::string Join(const std::string& folder, const std::string& file) {
  return (fs::path(folder) / file).lexically_normal().string();
}

// That `file` is a regular file inside of `folder` once links are followed.
absl::Status CheckFile(const std::string& folder, const std::string& file) {
  std::error_code error;
  const fs::path root = fs::canonical(folder, error);
  if (error) {
    return absl::FailedPreconditionError(absl::StrCat(
        "cannot open ", Quoted(folder, kMaxShownPath), ": ", error.message()));
  }
  const std::string relative = fs::path(file).lexically_normal().string();
  const fs::path target = fs::weakly_canonical(root / relative, error);
  const bool leaves =
      fs::path(file).is_absolute() || absl::StartsWith(relative, "..") ||
      absl::StartsWith(target.lexically_relative(root).string(), "..");
  if (!error && leaves) {
    return absl::FailedPreconditionError(
        absl::StrCat("file ", Quoted(file, kMaxShownPath),
                     " leads out of the package's folder"));
  }
  if (error || !fs::is_regular_file(target, error)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "file ", Quoted(file, kMaxShownPath),
        " is missing: ", "export the package again, or run scripts/setup"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadInside(const std::string& folder,
                                       const std::string& file) {
  QUERN_RETURN_IF_ERROR(CheckFile(folder, file));
  return ReadFile(Join(folder, file));
}

// Relative to the package's folder.
std::set<std::string> FilesOf(const ModelPackage& package) {
  std::set<std::string> files = {std::string(kModelFile),
                                 package.spec.canary_file};
  if (package.spec.image.has_value()) files.insert(package.spec.image->file);
  if (package.spec.text.has_value()) {
    files.insert(package.spec.text->file);
    for (std::string& file : FilesOf(package.spec.text->tokenizer)) {
      files.insert(std::move(file));
    }
  }
  if (package.spec.match.has_value()) files.insert(package.spec.match->file);
  for (const CanaryMatch& match : package.canary.matches) {
    files.insert(Join(package.canary_folder, match.file));
  }
  if (package.spec.moments.has_value()) {
    files.insert(package.spec.moments->file);
  }
  for (const CanaryMoment& moment : package.canary.moments) {
    for (const std::string& frame : moment.frames) {
      files.insert(Join(package.canary_folder, frame));
    }
  }
  for (const CanaryImage& image : package.canary.images) {
    files.insert(Join(package.canary_folder, image.file));
  }
  return files;
}

absl::StatusOr<std::string> Fingerprint(const std::string& folder,
                                        const std::set<std::string>& files) {
  const absl::string_view separator("\0", 1);
  std::string lines;
  for (const std::string& file : files) {
    const std::string path = Join(folder, file);
    std::error_code error;
    const uintmax_t bytes = fs::file_size(path, error);
    QUERN_ASSIGN_OR_RETURN(const std::string hash, Sha256HexOfFile(path));
    absl::StrAppend(&lines, file, separator, bytes, separator, hash, "\n");
  }
  return Sha256Hex(lines);
}

// A tower without a canary would go into service unseen.
absl::Status CheckCanary(const ModelPackage& package) {
  if (package.spec.text.has_value() && package.canary.texts.empty()) {
    return absl::InvalidArgumentError(
        "texts is missing: there is a text tower");
  }
  if (package.spec.image.has_value() && package.canary.images.empty()) {
    return absl::InvalidArgumentError(
        "images is missing: there is an image tower");
  }
  if (package.spec.match.has_value() && package.canary.matches.empty()) {
    return absl::InvalidArgumentError(
        "matches is missing: there is a match head");
  }
  if (package.spec.moments.has_value() && package.canary.moments.empty()) {
    return absl::InvalidArgumentError(
        "moments is missing: there is a moments head");
  }
  return absl::OkStatus();
}

absl::Status ReadCanary(ModelPackage& package) {
  const std::string& file = package.spec.canary_file;
  QUERN_ASSIGN_OR_RETURN(const std::string json,
                         ReadInside(package.folder, file));
  package.canary_folder = fs::path(file).parent_path().string();
  absl::StatusOr<CanarySpec> canary =
      ParseCanaryJson(json, package.spec.dimension);
  if (!canary.ok()) return Annotate(canary.status(), file);
  package.canary = *std::move(canary);
  return Annotate(CheckCanary(package), file);
}

absl::Status ReadInto(ModelPackage& package) {
  QUERN_ASSIGN_OR_RETURN(const std::string json,
                         ReadInside(package.folder, std::string(kModelFile)));
  absl::StatusOr<ModelSpec> spec = ParseModelJson(json);
  if (!spec.ok()) return Annotate(spec.status(), kModelFile);
  package.spec = *std::move(spec);
  QUERN_RETURN_IF_ERROR(ReadCanary(package));
  const std::set<std::string> files = FilesOf(package);
  for (const std::string& file : files) {
    QUERN_RETURN_IF_ERROR(CheckFile(package.folder, file));
  }
  QUERN_ASSIGN_OR_RETURN(package.fingerprint,
                         Fingerprint(package.folder, files));
  return absl::OkStatus();
}

}  // namespace

std::string ModelPackage::PathOf(const std::string& file) const {
  return Join(folder, file);
}

std::string ModelPackage::CanaryPathOf(const std::string& file) const {
  return Join(Join(folder, canary_folder), file);
}

absl::StatusOr<ModelPackage> ReadModelPackage(const std::string& folder) {
  const std::string shown = Quoted(folder, kMaxShownPath);
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    return absl::NotFoundError(
        absl::StrCat("there is no model package at ", shown, ": ", kCure));
  }
  ModelPackage package{.folder = folder};
  if (absl::Status status = ReadInto(package); !status.ok()) {
    return Annotate(status, absl::StrCat("model package ", shown));
  }
  return package;
}

}  // namespace quern
