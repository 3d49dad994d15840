#include "engine/base/sha256.h"

#include <array>

#include "absl/strings/escaping.h"
#include <openssl/evp.h>

namespace quern {
namespace {

// EVP_sha256() is looked up anew for each digest, which takes as long as to
// digest a kilobyte.
const EVP_MD* Algorithm() {
  static const EVP_MD* const fetched = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  return fetched != nullptr ? fetched : EVP_sha256();
}

}  // namespace

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  EVP_DigestInit_ex(context_, Algorithm(), nullptr);
}

Sha256::~Sha256() { EVP_MD_CTX_free(context_); }

void Sha256::Update(absl::string_view bytes) {
  EVP_DigestUpdate(context_, bytes.data(), bytes.size());
}

std::string Sha256::Hex() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned int bytes = 0;
  EVP_DigestFinal_ex(context_, digest.data(), &bytes);
  return absl::BytesToHexString(
      {reinterpret_cast<const char*>(digest.data()), bytes});
}

std::string Sha256Hex(absl::string_view bytes) {
  Sha256 hash;
  hash.Update(bytes);
  return hash.Hex();
}

}  // namespace quern
