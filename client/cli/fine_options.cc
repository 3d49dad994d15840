#include "client/cli/fine_options.h"

#include <map>

namespace quern::cli {
namespace {

using Config = v1::PartsConfig;
using Rerank = v1::Rerank;

const std::map<std::string, Config::Dense>& Grids() {
  static const auto* const kGrids =
      new std::map<std::string, Config::Dense>{{"off", Config::DENSE_OFF},
                                               {"7x7", Config::DENSE_7X7},
                                               {"14x14", Config::DENSE_14X14}};
  return *kGrids;
}

const std::map<std::string, Config::Encoding>& Encodings() {
  static const auto* const kEncodings =
      new std::map<std::string, Config::Encoding>{
          {"int8", Config::ENCODING_INT8},
          {"compressed", Config::ENCODING_COMPRESSED}};
  return *kEncodings;
}

const std::map<std::string, Rerank::Method>& Methods() {
  static const auto* const kMethods = new std::map<std::string, Rerank::Method>{
      {"best", Rerank::METHOD_UNSPECIFIED},
      {"late-interaction", Rerank::METHOD_LATE_INTERACTION},
      {"match", Rerank::METHOD_MATCH},
      {"remote", Rerank::METHOD_REMOTE},
      {"best-part", Rerank::METHOD_BEST_PART}};
  return *kMethods;
}

}  // namespace

void AddPartsOptions(CLI::App& command, PartsFlags& flags) {
  CLI::Option* parts =
      command
          .add_option(
              "--parts", flags.grid,
              "Keeps a grid of every picture and 2 frames a second of every "
              "video, to rerank and ground by: off, 7x7 or 14x14; off keeps "
              "nothing. Default: off")
          ->check(CLI::IsMember(Grids()).description(""))
          ->type_name("GRID");
  command
      .add_option("--parts-encoding", flags.encoding,
                  "How they are kept: int8, 25 KB a picture of 7x7, or "
                  "compressed, 4 KB. Default: int8")
      ->check(CLI::IsMember(Encodings()).description(""))
      ->needs(parts)
      ->type_name("FORM");
  command
      .add_flag("--parts-searchable", flags.searchable,
                "Finds items by their parts, too: --regions and --moments then "
                "find small things and short moments. Takes memory: 11 KB a "
                "picture, 0.5 KB a frame")
      ->needs(parts);
}

void SetParts(const PartsFlags& flags, v1::Collection& collection) {
  const auto grid = Grids().find(flags.grid);
  if (grid == Grids().end() || grid->second == Config::DENSE_OFF) return;
  collection.mutable_parts()->set_dense(grid->second);
  collection.mutable_parts()->set_searchable(flags.searchable);
  const auto encoding = Encodings().find(flags.encoding);
  if (encoding == Encodings().end()) return;
  collection.mutable_parts()->set_encoding(encoding->second);
}

void AddRerankOptions(CLI::App& command, RerankFlags& flags) {
  CLI::Option* rerank =
      command
          .add_option("--rerank", flags.method,
                      "Orders the best hits again by their parts: best, "
                      "best-part, late-interaction, match or remote. Default: "
                      "not")
          ->check(CLI::IsMember(Methods()).description(""))
          ->type_name("METHOD");
  command
      .add_option("--depth", flags.depth,
                  "Hits that are ordered again, 1 to 10000. Default: 100")
      ->check(CLI::Range(1, 10000).description(""))
      ->needs(rerank)
      ->type_name("N");
  command
      .add_option("--weight", flags.weight,
                  "Share of the new score, 0 to 1. Default: the server's")
      ->check(CLI::Range(0.0, 1.0).description(""))
      ->needs(rerank)
      ->type_name("W");
}

void SetRerank(const RerankFlags& flags, v1::SearchRequest& request) {
  const auto method = Methods().find(flags.method);
  if (method == Methods().end()) return;
  Rerank& rerank = *request.mutable_rerank();
  rerank.set_method(method->second);
  if (flags.depth.has_value()) rerank.set_depth(*flags.depth);
  if (flags.weight.has_value()) rerank.set_weight(*flags.weight);
}

}  // namespace quern::cli
