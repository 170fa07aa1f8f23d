/* Values taken one after another from a fuzzer's input; zeros after its end. */
#ifndef STREAM_IMAGE_FUZZ_INPUT_H
#define STREAM_IMAGE_FUZZ_INPUT_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct input {
    const uint8_t *data;
    size_t length;
};

/* Abort, so that the fuzzer keeps the input, if a property does not hold. */
#define CHECK(property)                                                                  \
    do {                                                                                 \
        if (!(property)) {                                                               \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #property); \
            abort();                                                                     \
        }                                                                                \
    } while (0)

/* Take a number of `size` bytes, at most 8. */
static inline uint64_t take_number(struct input *input, size_t size)
{
    uint64_t value = 0;
    for (size_t i = 0; i < size && input->length; i++) {
        value = value << 8 | *input->data++;
        input->length--;
    }
    return value;
}

/* Take bytes, their number first, into a block of exactly that size, so that a sanitizer sees
 * an overrun. With `terminated`, a zero follows, and none is among them. Free the block. */
static inline uint8_t *take_bytes(struct input *input, size_t *length, int terminated)
{
    *length = take_number(input, 2) % 5000;
    if (*length > input->length)
        *length = input->length;
    if (terminated)
        *length = strnlen((const char *)input->data, *length);
    uint8_t *bytes = malloc(*length + (terminated ? 1 : 0));
    CHECK(bytes || !*length);
    if (*length)
        memcpy(bytes, input->data, *length);
    if (terminated)
        bytes[*length] = '\0';
    input->data += *length;
    input->length -= *length;
    return bytes;
}

#endif
