/* Records: what is decoded is what was added. */
#include "records.h"

#include "input.h"

enum { MAX_ADDED = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};
    struct records records = {0};
    struct header_entry added[MAX_ADDED], found;
    struct records_witness witness = {0};
    struct records_cursor cursor = {0};
    struct fault fault;
    size_t count = 0;

    CHECK(header_init(&records.stamp, 1, 0, 0, "root", "root", &fault) == 0);
    CHECK(records_set_root(&records, "", &fault) == 0);
    while (input.length && count < MAX_ADDED) {
        struct header_entry *entry = &added[count];
        size_t name_length, link_length;
        uint64_t header = take_number(&input, 3);
        entry->typeflag = (uint8_t) "0125"[header & 3];
        entry->mode = header >> 2 & 07777;
        entry->size = entry->typeflag == '0' ? take_number(&input, 4) : 0;
        entry->name = take_bytes(&input, &name_length, 1);
        entry->name_length = (uint32_t)name_length;
        entry->link = take_bytes(&input, &link_length, 1);
        entry->link_length = entry->typeflag == '2' ? (uint32_t)link_length : 0;
        witness.inode = count++;
        CHECK(records_add(&records, entry, &witness, &fault) == 0);
    }
    CHECK(records.count == count);
    uint64_t tar_size = 0;
    for (size_t i = 0; i < count; i++) {
        CHECK(records_decode(&records, &cursor, &found, &fault) == 0);
        CHECK(found.typeflag == added[i].typeflag && found.mode == added[i].mode);
        CHECK(found.size == added[i].size && records.witnesses[i].inode == i);
        CHECK(found.name_length == added[i].name_length);
        CHECK(!found.name_length || !memcmp(found.name, added[i].name, found.name_length));
        CHECK(found.link_length == added[i].link_length);
        CHECK(!found.link_length || !memcmp(found.link, added[i].link, found.link_length));
        tar_size += header_size(&records.stamp, &found) + (found.size + 511) / 512 * 512;
    }
    CHECK(cursor.offset == records.length && records.tar_size == tar_size);
    records_cursor_free(&cursor);
    records_free(&records);
    for (size_t i = 0; i < count; i++) {
        free((void *)added[i].name);
        free((void *)added[i].link);
    }
    return 0;
}
