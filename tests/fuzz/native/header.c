/* Header blocks of any entry: the sum is right, and a single block holds the whole name. */
#include "header.h"

#include "input.h"

static unsigned field_sum(const uint8_t *block)
{
    unsigned sum = 8 * ' ';
    for (int i = 0; i < HEADER_BLOCK; i++)
        sum += i >= 148 && i < 156 ? 0 : block[i];
    return sum;
}

static void check_name(const uint8_t *block, const struct header_entry *entry)
{
    char name[300] = "";
    if (block[345])
        snprintf(name, sizeof name, "%.155s/", block + 345);
    size_t length = strlen(name);
    snprintf(name + length, sizeof name - length, "%.100s", block);
    CHECK(strlen(name) == entry->name_length);
    CHECK(!memcmp(name, entry->name, entry->name_length));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};
    struct header_stamp stamp;
    struct fault fault;
    size_t name_length, link_length, uname_length, gname_length, records_length;

    int gnu = take_number(&input, 1) & 1;
    int64_t mtime = (int64_t)take_number(&input, 8);
    uint64_t uid = take_number(&input, 8), gid = take_number(&input, 8);
    uint8_t *uname = take_bytes(&input, &uname_length, 1);
    uint8_t *gname = take_bytes(&input, &gname_length, 1);
    uint8_t *records = take_bytes(&input, &records_length, 0);
    struct header_entry entry = {
        .typeflag = (uint8_t) "01234567"[take_number(&input, 1) % 8],
        .mode = take_number(&input, 2) & 07777,
        .size = take_number(&input, 8),
    };
    uint8_t *name = take_bytes(&input, &name_length, 1);
    uint8_t *link = take_bytes(&input, &link_length, 1);
    entry.name = name;
    entry.name_length = (uint32_t)name_length;
    entry.link = link;
    entry.link_length = (uint32_t)link_length;

    uint64_t max_gnu_id = ((uint64_t)1 << 56) - 1;
    if (gnu)
        header_init_gnu(&stamp, mtime, uid & max_gnu_id, gid & max_gnu_id);
    else if (header_init(&stamp, mtime, uid, gid, (char *)uname, (char *)gname, &fault) < 0)
        abort();
    if (entry.typeflag == '3' || entry.typeflag == '4')
        header_set_device(&stamp, (uint32_t)uid & 07777777, (uint32_t)gid & 07777777);
    CHECK(header_add_records(&stamp, records, records_length, &fault) == 0);

    size_t length = header_size(&stamp, &entry);
    CHECK(length && length % HEADER_BLOCK == 0);
    uint8_t *out = malloc(length);
    CHECK(out);
    memset(out, 0xaa, length);
    header_encode(&stamp, &entry, out);
    const uint8_t *last = out + length - HEADER_BLOCK;
    CHECK(strtoul((const char *)last + 148, NULL, 8) == field_sum(last));
    CHECK(strtoul((const char *)out + 148, NULL, 8) == field_sum(out));
    if (length == HEADER_BLOCK)
        check_name(out, &entry);

    free(out);
    header_free(&stamp);
    free(uname);
    free(gname);
    free(records);
    free(name);
    free(link);
    return 0;
}
