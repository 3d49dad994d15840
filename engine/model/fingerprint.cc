#include "engine/model/fingerprint.h"

#include <cstdint>
#include <fstream>
#include <memory>
#include <set>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include <openssl/evp.h>

#include "engine/base/error.h"
#include "engine/base/status_macros.h"

namespace quern {
namespace {

constexpr size_t kReadBytes = 1 << 20;

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
    EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr);
  }

  void Update(absl::string_view bytes) {
    EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size());
  }

  std::string HexDigest() {
    std::string digest(EVP_MAX_MD_SIZE, '\0');
    unsigned int size = 0;
    EVP_DigestFinal_ex(context_.get(),
                       reinterpret_cast<unsigned char*>(digest.data()), &size);
    digest.resize(size);
    return absl::BytesToHexString(digest);
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

struct FileDigest {
  int64_t bytes = 0;
  std::string hex;
};

absl::StatusOr<FileDigest> DigestFile(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  std::vector<char> buffer(kReadBytes);
  Sha256 hash;
  FileDigest digest;
  while (stream.good()) {
    stream.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    const auto bytes = static_cast<size_t>(stream.gcount());
    hash.Update({buffer.data(), bytes});
    digest.bytes += static_cast<int64_t>(bytes);
  }
  if (!stream.eof()) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot read ", Quoted(file, 4096)));
  }
  digest.hex = hash.HexDigest();
  return digest;
}

}  // namespace

absl::StatusOr<std::string> FingerprintFiles(
    const std::string& folder, absl::Span<const std::string> paths) {
  const std::set<std::string> sorted(paths.begin(), paths.end());
  const absl::string_view separator("\0", 1);
  Sha256 hash;
  for (const std::string& path : sorted) {
    QUERN_ASSIGN_OR_RETURN(const FileDigest digest,
                           DigestFile(absl::StrCat(folder, "/", path)));
    hash.Update(absl::StrCat(path, separator, digest.bytes, separator,
                             digest.hex, "\n"));
  }
  return hash.HexDigest();
}

}  // namespace quern
