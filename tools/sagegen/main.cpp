// The command-line tool. Each command is one file; app.h lists them.
#include <fcntl.h>
#include <unistd.h>

#include <csignal>

#include "tools/sagegen/app.h"
#include "tools/sagegen/interrupt.h"

int main(int argc, char** argv) {
  // A file that grows beyond `ulimit -f` is an error to report, and not the end of the process.
  std::signal(SIGXFSZ, SIG_IGN);
  // Where a standard stream is closed, the next file that is opened would take its number, and with it what
  // is printed.
  int number = 0;
  do {
    number = ::open("/dev/null", O_RDONLY);
  } while (number >= 0 && number <= STDERR_FILENO);
  if (number > STDERR_FILENO) ::close(number);
  const int exit_code = sagegen::cli::run(argc, argv);
  if (const int by = sagegen::cli::signal_to_end_by(); by != 0) {
    std::fflush(nullptr);
    std::signal(by, SIG_DFL);
    std::raise(by);
  }
  return exit_code;
}
