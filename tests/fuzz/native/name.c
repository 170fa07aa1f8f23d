/* Names: decoding moves on and stays in bounds, and the order is one. */
#include "name.h"

#include "input.h"

static int sign(int value)
{
    return (value > 0) - (value < 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};
    uint8_t *names[3];
    size_t lengths[3];

    for (int i = 0; i < 3; i++) {
        names[i] = take_bytes(&input, &lengths[i], 0);
        int valid = 1;
        for (size_t at = 0, width; at < lengths[i]; at += width) {
            uint32_t code = name_decode(names[i] + at, lengths[i] - at, &width);
            CHECK(width >= 1 && width <= 4 && width <= lengths[i] - at);
            CHECK(code <= 0x10ffff);
            valid &= !(code >= 0xd800 && code < 0xe000);
        }
        CHECK(name_is_utf8(names[i], lengths[i]) == valid);
    }
    int orders[3];
    for (int i = 0; i < 3; i++) {
        int j = (i + 1) % 3;
        orders[i] = sign(name_compare(names[i], lengths[i], names[j], lengths[j]));
        CHECK(orders[i] == -sign(name_compare(names[j], lengths[j], names[i], lengths[i])));
        int same = lengths[i] == lengths[j] &&
                   (!lengths[i] || !memcmp(names[i], names[j], lengths[i]));
        CHECK((orders[i] == 0) == same);
    }
    /* Not a circle: a < b < c < a. */
    CHECK(!(orders[0] && orders[0] == orders[1] && orders[1] == orders[2]));
    for (int i = 0; i < 3; i++)
        free(names[i]);
    return 0;
}
