#include "tools/sagegen/compare_candidates.h"

#include <algorithm>
#include <map>
#include <set>
#include <sstream>

#include <fmt/format.h>

#include "tools/sagegen/errors.h"
#include "tools/sagegen/help.h"
#include "tools/sagegen/kernel_choice.h"
#include "tools/sagegen/options.h"

namespace sagegen::cli {
namespace {

constexpr const char* kSchedule = "schedule";

// Head dims, dtype and mods: what has to be computed, and not how.
bool is_problem(const Field& field) {
  return (field.is_flag && field.name != "pack_gqa") || field.name == "head_dim" ||
         field.name == "value_dim" || field.name == "io" || field.name == "out";
}

// What is the same in all candidates unless a text names it: groups, V as it is, no rotation, and tiles of one head's
// queries, lest a table of so many doubles; and whose the codes are, which changes none of them.
bool is_varied(const Field& field) {
  for (const char* same : {"q_group", "k_group", "v_smoothing", "rotation", "pack_gqa", "inputs"}) {
    if (field.name == same) return false;
  }
  return !is_problem(field);
}

// What may be said of a field. A model tells no sums of f32 apart, so there the usual ones stand for all.
std::vector<std::string> choices_of(const Field& field, ErrorsOf errors) {
  std::vector<std::string> choices;
  const bool f32_alike = errors == ErrorsOf::formats && field.name == "accumulation";
  if (f32_alike) choices.emplace_back();
  for (const int value : field.values.all()) {
    const bool usual = f32_alike && value != static_cast<int>(Accumulation::f32_f16);
    if (!usual) choices.push_back(fmt::format(" {}={}", field.name, field.word(value)));
  }
  return choices;
}

std::string problem_text(const attention::Spec& asked) {
  std::string text;
  for (const Field& field : attention::family().what) {
    if (is_problem(field) && !(field.silent && field.get(&asked) == field.initial))
      text += fmt::format("{}={} ", field.name, field.word(field.get(&asked)));
  }
  return text;
}

// Names that an option text gives values to.
std::set<std::string> names_in(const std::string& text) {
  std::set<std::string> names;
  std::istringstream words(text);
  for (std::string word; words >> word;) names.insert(word.substr(0, word.find('=')));
  return names;
}

Sentences violations(const Kernel& kernel) {
  Sentences sentences = kernel.violations();
  if (!sentences.empty()) return sentences;
  for (const Kernel& input : kernel.inputs()) {
    sentences = input.violations();
    if (!sentences.empty()) break;
  }
  return sentences;
}

// Adds to `found` what `text` says, with every choice from the index-th on; gives the first refusal.
void combine(const std::vector<std::vector<std::string>>& choices, std::size_t index,
             const std::string& text, Target target, std::vector<Kernel>& found,
             Sentences& refused) {
  if (index < choices.size()) {
    for (const std::string& choice : choices[index])
      combine(choices, index + 1, text + choice, target, found, refused);
    return;
  }
  const Kernel kernel = kernel_of_options(attention::family(), text, target);
  const Sentences sentences = violations(kernel);
  if (sentences.empty()) found.push_back(kernel);
  if (refused.empty()) refused = sentences;
}

std::vector<Kernel> combinations(const std::string& only, const attention::Spec& asked,
                                 Target target, ErrorsOf errors) {
  const std::set<std::string> named = names_in(only);
  std::vector<std::vector<std::string>> choices;
  for (const Field& field : attention::family().what) {
    const bool is_named = named.contains(std::string(field.name));
    if (is_named && (field.name == "out" || field.name == "varlen")) {
      throw UsageError(fmt::format(
          "--only \"{}\" is refused: modes are compared by O as it is, in batches of one length; "
          "leave {} out",
          only, field.name));
    }
    if (is_named && is_problem(field)) {
      throw UsageError(fmt::format(
          "--only \"{}\" is refused: inputs, --dtype and the options of masks say what {} is; "
          "leave it out",
          only, field.name));
    }
    if (is_named && field.name == "inputs") {
      throw UsageError(fmt::format(
          "--only \"{}\" is refused: whose the codes are changes no error; leave inputs out",
          only));
    }
    if (!is_named && is_varied(field)) choices.push_back(choices_of(field, errors));
  }
  std::vector<Kernel> found;
  Sentences refused;
  combine(choices, 0, problem_text(asked) + only, target, found, refused);
  if (!found.empty()) return found;
  throw SpecError(fmt::format("no kernel for {} has {}{}: {}", to_string(target),
                              problem_text(asked), only, refused.front()));
}

std::vector<Kernel> of_set(const std::string& file, const attention::Spec& asked, Target target) {
  std::vector<Kernel> kernels =
      chosen_kernels({.keys = {}, .set_file = file, .target = to_string(target)});
  std::erase_if(kernels, [&](const Kernel& kernel) {
    return &kernel.family() != &attention::family() ||
           kernel.view(attention::family()).spec.inputs == attention::InputSource::given ||
           problem_text(kernel.view(attention::family()).spec) != problem_text(asked);
  });
  if (!kernels.empty()) return kernels;
  throw SpecError(fmt::format("{} has no attention kernel for {} with {}as the inputs ask for",
                              file, to_string(target), problem_text(asked)));
}

}  // namespace

void define_candidates(CLI::App& app, CandidateOptions& options) {
  const OptionGroup group(app, "Kernels");
  CLI::Option* only = app.add_option("--only", options.only,
                                     "compare kernels with these values alone, for example "
                                     "\"qk=s8 pv=f16\"; of several texts, those of each");
  CLI::Option* set = app.add_option("--set", options.set_file,
                                    "compare the attention kernels of a set description in TOML "
                                    "that are made for such inputs");
  refuse_empty(only);
  refuse_empty(set);
  refuse_beside(set, only, "the set says which kernels there are; leave one of the two out");
}

std::vector<Kernel> candidates(const CandidateOptions& options, const attention::Spec& asked,
                               Target target, ErrorsOf errors) {
  if (!options.set_file.empty()) return of_set(options.set_file, asked, target);
  std::vector<Kernel> result;
  std::set<std::string> seen;
  const std::vector<std::string> all{""};
  for (const std::string& only : options.only.empty() ? all : options.only) {
    for (const Kernel& kernel : combinations(only, asked, target, errors)) {
      if (seen.insert(kernel.key()).second) result.push_back(kernel);
    }
  }
  return result;
}

std::string word_of(const Kernel& kernel, const std::string& difference) {
  if (difference == kSchedule) return kernel.how();
  const Field* field = find_field(kernel.family().what, difference);
  return field->word(field->get(kernel.spec()));
}

std::vector<std::string> differences(const std::vector<Kernel>& kernels) {
  std::vector<std::string> names;
  for (const Field& field : attention::family().what) names.emplace_back(field.name);
  names.emplace_back(kSchedule);
  const auto words = [&](const std::string& name) {
    std::vector<std::string> all;
    for (const Kernel& kernel : kernels) all.push_back(word_of(kernel, name));
    return all;
  };
  // Whether kernels that agree in one field agree in the other, too.
  const auto follows = [](const std::vector<std::string>& from,
                          const std::vector<std::string>& field) {
    std::map<std::string, std::string> known;
    for (std::size_t i = 0; i < from.size(); ++i) {
      if (known.try_emplace(from[i], field[i]).first->second != field[i]) return false;
    }
    return true;
  };
  std::vector<std::string> kept;
  for (const std::string& name : names) {
    const std::vector<std::string> own = words(name);
    const bool redundant =
        follows(std::vector<std::string>(own.size()), own) ||
        std::ranges::any_of(kept, [&](const std::string& k) { return follows(words(k), own); });
    if (!redundant) kept.push_back(name);
  }
  return kept;
}

}  // namespace sagegen::cli
