// Which attention kernels `compare` puts beside each other.
#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "templates/attention/spec.h"

namespace sagegen::cli {

struct CandidateOptions {
  std::vector<std::string> only;  // option texts; empty: all
  std::string set_file;           // empty: none
};
void define_candidates(CLI::App& app, CandidateOptions& options);

// Where errors are from. The model of the formats knows no accumulation, so that it would call the fastest one as
// accurate as any.
enum class ErrorsOf { formats, kernels };

// Kernels for the head_dim, dtype, masks and biases of `asked`, each once: every combination of values of the family's
// other fields that the rules let through, with the usual groups of rows and the usual schedule; of errors of formats
// with the usual accumulation. Where options narrow that, the values that a text names, or the kernels of the set.
// Throws SpecError if there is none, and UsageError of a text that names what the inputs decide.
std::vector<Kernel> candidates(const CandidateOptions& options, const attention::Spec& asked,
                               Target target, ErrorsOf errors);

// Names of the fields, and "schedule", that tell the kernels apart: in which not all of them agree, and which do not
// follow from one before, as groups of rows do from the granularity.
std::vector<std::string> differences(const std::vector<Kernel>& kernels);
std::string word_of(const Kernel& kernel, const std::string& difference);

}  // namespace sagegen::cli
