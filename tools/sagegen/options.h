// What commands share in declaring options: choices in plain words, and refusals of what would be ignored.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "generator/vocabulary/suggestion.h"

namespace sagegen::cli {

// Takes one of these words; help lists them, and an error names the nearest.
CLI::Validator one_of(std::vector<std::string> words);

// An option whose argument is one of some words, each for a value; help and errors list the words.
template <typename Value>
CLI::Option* add_choice(CLI::App& app, const std::string& name, Value& value,
                        const std::vector<std::pair<std::string, Value>>& choices,
                        const std::string& description) {
  std::vector<std::string> words;
  for (const auto& [word, meaning] : choices) words.push_back(word);
  const auto set = [&value, choices](const std::string& given) {
    for (const auto& [word, meaning] : choices) {
      if (word == given) value = meaning;
    }
  };
  return app.add_option_function<std::string>(name, set, description)
      ->check(one_of(std::move(words)));
}

// Refuses `option` beside `other`, which makes it meaningless; `why` completes "is refused beside --other: ".
void refuse_beside(CLI::Option* option, const CLI::Option* other, const std::string& why);

// Refuses `option` where `other`, which it qualifies, is not given.
void refuse_without(CLI::Option* option, const CLI::Option* other);

// Refuses a name that is empty, as that of an unset variable is: nothing would be written.
void refuse_empty(CLI::Option* option);

// Refuses what is no whole number, and a number out of range, each in words. CLI11 takes -1, and what is too
// large, for the largest number.
void require_whole(CLI::Option* option, std::uint64_t least, std::uint64_t most);
void require_seed(CLI::Option* option);
// The same of what is no number from 0 to `most`, which may be the largest there is.
void require_number(CLI::Option* option, double most);

}  // namespace sagegen::cli
