// The command-line tool. Each command is one file; app.h lists them.
#include "tools/sagegen/app.h"

int main(int argc, char** argv) { return sagegen::cli::run(argc, argv); }
