// The resident kernel as a function for a CPU.
#include "warps.h"
namespace kernel {
#include RESIDENT_PASS
}
extern "C" void run_resident_pass(const kernel::Args *args) {
    emulation::run(NCTA, kernel::THREADS, kernel::WEIGHTS_START + ROOM,
                   [=] { kernel::run(*args); });
}
