#include "memory.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { FIRST_ITEMS = 64 };
enum { FIRST_PAGES = 64 * 1024 }; /* bytes */

static size_t larger(size_t capacity, size_t first, size_t wanted)
{
    size_t larger = capacity ? capacity * 2 : first;
    while (larger < wanted)
        larger *= 2;
    return larger;
}

void *memory_grow(void *block, size_t used, size_t need, size_t *capacity, size_t unit)
{
    if (block && used + need <= *capacity)
        return block;
    size_t items = larger(*capacity, FIRST_ITEMS, used + need);
    void *bigger = realloc(block, items * unit);
    if (bigger)
        *capacity = items;
    return bigger;
}

void *memory_grow_pages(void *block, size_t used, size_t need, size_t *capacity,
                        size_t unit)
{
    if (used + need <= *capacity)
        return block;
    size_t items = larger(*capacity, FIRST_PAGES / unit, used + need);
    void *bigger = block ? mremap(block, *capacity * unit, items * unit, MREMAP_MAYMOVE)
                         : mmap(NULL, items * unit, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bigger == MAP_FAILED)
        return NULL;
    *capacity = items;
    return bigger;
}

void memory_free_pages(void *block, size_t capacity, size_t unit)
{
    if (block)
        munmap(block, capacity * unit);
}
