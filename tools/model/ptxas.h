// The assembler of the CUDA toolkit: PTX to machine code, and what it says about it. A machine may lack it.
#pragma once

#include <string>
#include <vector>

namespace sagegen::model {

// That of the environment variable SAGEGEN_PTXAS. Without it the first ptxas on PATH, else that of
// /usr/local/cuda/bin, else what tools/install_ptxas.sh has put beside the folder of this program (build/tools/ptxas
// of build/bin). Empty if there is none.
const std::string& ptxas_path();
// The folders of that search, in order; path: a value of PATH, program: the path of this one.
std::vector<std::string> ptxas_folders(const std::string& path, const std::string& program);
std::string first_ptxas(const std::vector<std::string>& folders);  // that can be run; else empty
// Where it was looked for, for messages: "on PATH, in ... or in ...".
std::string ptxas_places();

// Why SAGEGEN_PTXAS is of no use, as a sentence; empty if it is not set, or names a ptxas.
std::string why_named_ptxas_fails();

// "13.0.88" as ptxas --version has it; empty if ptxas is missing or says something else.
const std::string& ptxas_version();
// 13 of these; 0 if there is no version. Other releases choose other instructions.
int ptxas_major_version();

struct Assembled {
  std::string report;  // what ptxas said
  std::string cubin;   // empty if it refused the text
};

// Needs ptxas. target: "sm_89"; options: "-v" reports registers and spills. Throws std::runtime_error if there is
// no place for temporary files.
Assembled assemble(const std::string& ptx, const std::string& target,
                   const std::string& options = "");

// Of a report of ptxas -v. A remark is a warning, an error, or a hint with a number, such as (C7517).
bool has_remark(const std::string& verbose_report);
int spilled_bytes(const std::string& verbose_report);  // written to memory per thread

// The whole report if it tells of anything but a clean kernel, without remark, spill and stack frame.
std::string complaint(const std::string& verbose_report);

// Registers of one thread in a report of ptxas -v; 0 if it names none.
int registers(const std::string& verbose_report);

}  // namespace sagegen::model
