/* Runs a fuzz target on the files that are named, for compilers without libFuzzer. */
#include "fuzz.h"

int main(int argc, char **argv)
{
    static uint8_t data[1 << 16];
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        REQUIRE(file);
        size_t size = fread(data, 1, sizeof data, file);
        fclose(file);
        uint8_t *exact = malloc(size);
        LLVMFuzzerTestOneInput(memcpy(exact, data, size), size);
        free(exact);
    }
    return 0;
}
