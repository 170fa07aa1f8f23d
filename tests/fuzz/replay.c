/* Call a target of libFuzzer's with the content of each file named, without libFuzzer. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int count, char **names)
{
    for (int i = 1; i < count; i++) {
        uint8_t *data = malloc(1 << 20); /* freed in one piece, so that overruns are seen */
        FILE *file = fopen(names[i], "rb");
        if (!data || !file)
            return 2;
        size_t size = fread(data, 1, 1 << 20, file);
        fclose(file);
        uint8_t *exact = realloc(data, size ? size : 1);
        if (!exact)
            return 2;
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
    }
    return 0;
}
