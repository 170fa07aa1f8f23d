/* Blocks of memory that grow as things are appended to them. Each doubles, so that
 * appending takes linear time. */
#ifndef STREAM_IMAGE_MEMORY_H
#define STREAM_IMAGE_MEMORY_H

#include <stddef.h>

/* Make room for `need` more items of `unit` bytes in a block that holds `used` of them.
 * `block` is from malloc or NULL, `*capacity` the number of items it has room for, 0 at
 * first.
 *
 * Returns the block, which may have moved and is never NULL even if nothing is needed,
 * and updates `*capacity`. Returns NULL if there is no memory; the old block is then
 * untouched. The caller frees the block with free(). */
void *memory_grow(void *block, size_t used, size_t need, size_t *capacity, size_t unit);

/* The same for blocks of whole pages from the system, which move by remapping instead of
 * copying and go back to the system when they are freed, not to an allocator that keeps
 * them: for large, short-lived data. `need` is at least 1. The caller frees the block
 * with memory_free_pages(). */
void *memory_grow_pages(void *block, size_t used, size_t need, size_t *capacity,
                        size_t unit);

/* Free a block of memory_grow_pages(), or do nothing for NULL. `capacity` and `unit` are
 * those of the last call. */
void memory_free_pages(void *block, size_t capacity, size_t unit);

#endif
