#include "records.h"

#include "memory.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

enum { RECORD_HEAD = 1 + 2 + 8 + 4 + 4 + 4 };

static uint64_t nanoseconds(const struct timespec *time)
{
    return (uint64_t)time->tv_sec * 1000000000u + (uint64_t)time->tv_nsec;
}

struct records_witness records_witness_of(const struct stat *stat)
{
    return (struct records_witness){
        .device = stat->st_dev,
        .inode = stat->st_ino,
        .mtime = nanoseconds(&stat->st_mtim),
        .ctime = nanoseconds(&stat->st_ctim),
        .links = stat->st_nlink,
    };
}

int records_witness_holds(const struct records_witness *witness, const struct stat *stat)
{
    struct records_witness now = records_witness_of(stat);
    return now.device == witness->device && now.inode == witness->inode &&
           now.mtime == witness->mtime &&
           (now.ctime == witness->ctime || now.links != witness->links);
}

int records_set_root(struct records *records, const char *root, struct fault *fault)
{
    char *copy = strdup(root);
    if (!copy)
        return fault_set(fault, FAULT_MEMORY, 0);
    records->root = copy;
    records->root_length = strlen(copy);
    return 0;
}

void records_free(struct records *records)
{
    header_free(&records->stamp);
    free(records->root);
    memory_free_pages(records->bytes, records->capacity, 1);
    memory_free_pages(records->witnesses, records->witness_capacity,
                      sizeof *records->witnesses);
    free(records->last);
    records->root = NULL;
    records->bytes = NULL;
    records->witnesses = NULL;
    records->last = NULL;
}

static size_t shared_length(const struct records *records, const struct header_entry *entry)
{
    size_t length = 0;
    while (length < records->last_length && length < entry->name_length &&
           records->last[length] == entry->name[length])
        length++;
    return length;
}

int records_add(struct records *records, const struct header_entry *entry,
                const struct records_witness *witness, struct fault *fault)
{
    size_t shared = shared_length(records, entry);
    size_t rest = entry->name_length - shared;
    size_t need = RECORD_HEAD + rest + entry->link_length;
    uint8_t *last =
        memory_grow(records->last, 0, entry->name_length, &records->last_capacity, 1);
    if (!last)
        return fault_set(fault, FAULT_MEMORY, 0);
    records->last = last;
    uint8_t *bytes =
        memory_grow_pages(records->bytes, records->length, need, &records->capacity, 1);
    if (!bytes)
        return fault_set(fault, FAULT_MEMORY, 0);
    records->bytes = bytes;
    struct records_witness *witnesses =
        memory_grow_pages(records->witnesses, records->count, 1, &records->witness_capacity,
                          sizeof *witnesses);
    if (!witnesses)
        return fault_set(fault, FAULT_MEMORY, 0);
    records->witnesses = witnesses;

    uint8_t *at = bytes + records->length;
    uint16_t mode = htole16(entry->mode);
    uint64_t size = htole64(entry->size);
    uint32_t lengths[3] = {htole32((uint32_t)shared), htole32((uint32_t)rest),
                           htole32(entry->link_length)};
    at[0] = entry->typeflag;
    memcpy(at + 1, &mode, 2);
    memcpy(at + 3, &size, 8);
    memcpy(at + 11, lengths, 12);
    if (rest) {
        memcpy(at + RECORD_HEAD, entry->name + shared, rest);
        memcpy(last + shared, entry->name + shared, rest);
    }
    if (entry->link_length)
        memcpy(at + RECORD_HEAD + rest, entry->link, entry->link_length);
    records->length += need;
    records->last_length = entry->name_length;
    witnesses[records->count++] = *witness;
    records->tar_size += header_size(&records->stamp, entry) +
                         (entry->size + HEADER_BLOCK - 1) / HEADER_BLOCK * HEADER_BLOCK;
    return 0;
}

uint64_t records_identities(const struct records *records, uint8_t *bytes)
{
    uint64_t newest = 0;
    for (size_t i = 0; i < records->count; i++) {
        const struct records_witness *witness = &records->witnesses[i];
        uint64_t numbers[4] = {htole64(witness->device), htole64(witness->inode),
                               htole64(witness->mtime), htole64(witness->ctime)};
        memcpy(bytes + i * RECORDS_IDENTITY_SIZE, numbers, RECORDS_IDENTITY_SIZE);
        if (witness->ctime > newest)
            newest = witness->ctime;
    }
    return newest;
}

int records_decode(const struct records *records, struct records_cursor *cursor,
                   struct header_entry *entry, struct fault *fault)
{
    const uint8_t *at = records->bytes + cursor->offset;
    uint16_t mode;
    uint64_t size;
    uint32_t lengths[3];
    memcpy(&mode, at + 1, 2);
    memcpy(&size, at + 3, 8);
    memcpy(lengths, at + 11, 12);
    uint32_t shared = le32toh(lengths[0]), rest = le32toh(lengths[1]);
    uint8_t *name =
        memory_grow(cursor->name, 0, (size_t)shared + rest, &cursor->name_capacity, 1);
    if (!name)
        return fault_set(fault, FAULT_MEMORY, 0);
    cursor->name = name;
    if (rest)
        memcpy(name + shared, at + RECORD_HEAD, rest);
    entry->typeflag = at[0];
    entry->mode = le16toh(mode);
    entry->size = le64toh(size);
    entry->name = name;
    entry->name_length = shared + rest;
    entry->link = at + RECORD_HEAD + rest;
    entry->link_length = le32toh(lengths[2]);
    cursor->offset += RECORD_HEAD + rest + entry->link_length;
    return 0;
}

void records_cursor_free(struct records_cursor *cursor)
{
    free(cursor->name);
}
