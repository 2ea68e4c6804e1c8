// ptxas for tests: PTX to machine code, and what the assembler says about it. A machine may lack ptxas;
// then tests of machine code are skipped with a reason.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

namespace sagegen::assembly {

// The first ptxas on PATH, else the one in /usr/local/cuda/bin; empty if there is none.
const std::string& ptxas_path();

// 13 of release 13.0; 0 if ptxas is missing. Other releases choose other instructions.
int ptxas_major_version();

// Ends the test program as skipped (exit code 77) if there is no ptxas.
void skip_without_ptxas();

struct Assembled {
  std::string report;  // what ptxas said
  std::string cubin;   // empty if it refused the text
};

// Needs ptxas. target: "sm_89"; options: "-v" reports registers and spills.
Assembled assemble(const std::string& ptx, const std::string& target,
                   const std::string& options = "");

// Of a report of ptxas -v. A remark is a warning, an error, or a hint with a number, such as (C7517).
bool has_remark(const std::string& verbose_report);
int spilled_bytes(const std::string& verbose_report);  // written to memory per thread

// The whole report if it tells of anything but a clean kernel, without remark, spill and stack frame.
std::string complaint(const std::string& verbose_report);

// Registers of one thread in a report of ptxas -v; 0 if it names none.
int registers(const std::string& verbose_report);

// work(0) to work(count - 1) on all cores: ptxas is what these tests wait for. work must not throw.
void in_parallel(std::size_t count, const std::function<void(std::size_t)>& work);

}  // namespace sagegen::assembly
