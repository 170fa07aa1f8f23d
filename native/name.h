/* Names of files as Python sees them: bytes decoded as UTF-8 with the error handler
 * `surrogateescape` (PEP 383), so that every name has a place in one order. */
#ifndef STREAM_IMAGE_NAME_H
#define STREAM_IMAGE_NAME_H

#include <stddef.h>
#include <stdint.h>

/* Return the code point at the start of `text`, whose `length` is at least 1, and set
 * `*width` to the number of its bytes, 1 to 4. A byte that does not begin a well-formed
 * sequence (RFC 3629) stands alone, as U+DC00 + byte. */
uint32_t name_decode(const uint8_t *text, size_t length, size_t *width);

/* Return 1 if the name is well-formed UTF-8, else 0. An empty one is. */
int name_is_utf8(const uint8_t *name, size_t length);

/* Return a number less than, equal to or greater than 0 as `a` sorts before, with or
 * after `b` in Python: by code point, a prefix first. If both are UTF-8, this is the
 * order of their bytes. */
int name_compare(const uint8_t *a, size_t a_length, const uint8_t *b, size_t b_length);

#endif
