#include "name.h"

#include <string.h>

uint32_t name_decode(const uint8_t *text, size_t length, size_t *width)
{
    uint8_t first = text[0];
    size_t need;
    uint32_t code, least;

    *width = 1;
    if (first < 0x80)
        return first;
    if (first >= 0xC2 && first <= 0xDF)
        need = 2, code = first & 0x1F, least = 0x80;
    else if (first >= 0xE0 && first <= 0xEF)
        need = 3, code = first & 0x0F, least = 0x800;
    else if (first >= 0xF0 && first <= 0xF4)
        need = 4, code = first & 0x07, least = 0x10000;
    else
        return 0xDC00u + first;
    if (length < need)
        return 0xDC00u + first;
    for (size_t i = 1; i < need; i++) {
        if ((text[i] & 0xC0) != 0x80)
            return 0xDC00u + first;
        code = code << 6 | (text[i] & 0x3F);
    }
    if (code < least || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
        return 0xDC00u + first;
    *width = need;
    return code;
}

/* Return how many bytes of `name` need not be looked at one by one, as they and all before
 * them are ASCII: most names, but for the last few bytes. */
static size_t ascii_length(const uint8_t *name, size_t length)
{
    size_t i = 0;
    for (uint64_t word; i + sizeof word <= length; i += sizeof word) {
        memcpy(&word, name + i, sizeof word);
        if (word & 0x8080808080808080u)
            break;
    }
    return i;
}

int name_is_utf8(const uint8_t *name, size_t length)
{
    size_t width;
    for (size_t i = ascii_length(name, length); i < length; i += width) {
        uint32_t code = name_decode(name + i, length - i, &width);
        if (code >= 0xDC80 && code <= 0xDCFF)
            return 0;
    }
    return 1;
}

int name_compare(const uint8_t *a, size_t a_length, const uint8_t *b, size_t b_length)
{
    size_t i = 0, j = 0, width;
    while (i < a_length && j < b_length) {
        uint32_t left = name_decode(a + i, a_length - i, &width);
        i += width;
        uint32_t right = name_decode(b + j, b_length - j, &width);
        j += width;
        if (left != right)
            return left < right ? -1 : 1;
    }
    return (i < a_length) - (j < b_length);
}
