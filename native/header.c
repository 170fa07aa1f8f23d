#include "header.h"

#include "name.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Field offsets and widths of the ustar header. */
enum {
    NAME = 0, NAME_WIDTH = 100,
    MODE = 100, MODE_WIDTH = 8,
    UID = 108, GID = 116, ID_WIDTH = 8,
    SIZE = 124, MTIME = 136, NUMBER_WIDTH = 12,
    CHECKSUM = 148,
    TYPEFLAG = 156,
    LINK = 157, LINK_WIDTH = 100,
    MAGIC = 257,
    UNAME = 265, GNAME = 297, OWNER_WIDTH = 32,
    MAJOR = 329, MINOR = 337, DEVICE_WIDTH = 8,
};

static const uint64_t MAX_ID = 07777777;
static const uint64_t MAX_NUMBER = 077777777777;

/* ---- text ------------------------------------------------------------- */

static int is_ascii(const uint8_t *text, size_t length)
{
    uint8_t seen = 0;
    for (size_t i = 0; i < length; i++)
        seen |= text[i];
    return seen < 0x80;
}

/* Put `text` into a header field: cut to its width, with `?` for each character that is
 * not ASCII. Returns the sum of the bytes put. */
static uint32_t put_text(uint8_t *field, size_t width, const uint8_t *text, size_t length)
{
    uint32_t sum = 0;
    size_t step;
    for (size_t i = 0, at = 0; i < length && at < width; i += step, at++) {
        if (text[i] < 0x80) {
            field[at] = text[i];
            step = 1;
        } else {
            field[at] = '?';
            name_decode(text + i, length - i, &step);
        }
        sum += field[at];
    }
    return sum;
}

/* Put `value` as octal digits and a NUL. Returns the sum of the bytes put. */
static uint32_t put_octal(uint8_t *field, size_t width, uint64_t value)
{
    uint32_t sum = 0;
    field[width - 1] = 0;
    for (size_t i = width - 1; i-- > 0; value >>= 3) {
        field[i] = (uint8_t)('0' + (value & 7));
        sum += field[i];
    }
    return sum;
}

/* Put `value`, in two's complement if it is `negative`: as octal digits and a NUL if it
 * fits, else as GNU tar does, big-endian after a byte of 0x80 or 0xFF. */
static void put_number(uint8_t *field, size_t width, uint64_t value, int negative)
{
    if (!negative && value >> 3 * (width - 1) == 0) {
        put_octal(field, width, value);
        return;
    }
    for (size_t i = width; i-- > 1;) {
        field[i] = (uint8_t)value;
        value = value >> 8 | (negative ? (uint64_t)0xFF << 56 : 0);
    }
    field[0] = negative ? 0xFF : 0x80;
}

static void put_checksum(uint8_t *header, uint32_t sum)
{
    sum += 8 * ' '; /* the field itself counts as spaces */
    put_octal(header + CHECKSUM, 7, sum);
    header[CHECKSUM + 7] = ' ';
}

/* ---- PAX records ------------------------------------------------------ */

static size_t digits(size_t number)
{
    size_t count = 1;
    while (number >= 10)
        number /= 10, count++;
    return count;
}

/* Return the bytes of the record "<length> <key>=<value>\n", whose length counts itself. */
static size_t record_size(size_t key_length, size_t value_length)
{
    size_t rest = key_length + value_length + 3, size = rest;
    for (;;) {
        size_t next = rest + digits(size);
        if (next == size)
            return size;
        size = next;
    }
}

/* Put a record and return its end. */
static uint8_t *put_record(uint8_t *out, const char *key, const void *value, size_t length)
{
    size_t key_length = strlen(key);
    out += sprintf((char *)out, "%zu %s=", record_size(key_length, length), key);
    memcpy(out, value, length);
    out += length;
    *out++ = '\n';
    return out;
}

static const char HDRCHARSET[] = "21 hdrcharset=BINARY\n";

static int name_needs_pax(const uint8_t *name, size_t length, size_t width)
{
    return length > width || !is_ascii(name, length);
}

/* The contents of an entry's extended header. */
struct needs {
    int name, link, size; /* 1 if there is a record of it */
    size_t payload;       /* bytes of all records, 0 if no extended header is needed */
    int binary;           /* a value is not UTF-8, which hdrcharset has to announce */
};

static struct needs measure(const struct header_stamp *stamp,
                            const struct header_entry *entry)
{
    struct needs needs = {0};

    needs.name = name_needs_pax(entry->name, entry->name_length, NAME_WIDTH);
    needs.link = name_needs_pax(entry->link, entry->link_length, LINK_WIDTH);
    needs.size = entry->size > MAX_NUMBER;
    if (!needs.name && !needs.link && !needs.size && !stamp->before_length &&
        !stamp->after_length)
        return needs;

    needs.payload = stamp->before_length + stamp->after_length;
    needs.binary = stamp->binary;
    if (needs.name) {
        needs.payload += record_size(4, entry->name_length);
        needs.binary |= !name_is_utf8(entry->name, entry->name_length);
    }
    if (needs.link) {
        needs.payload += record_size(8, entry->link_length);
        needs.binary |= !name_is_utf8(entry->link, entry->link_length);
    }
    if (needs.size)
        needs.payload += record_size(4, digits(entry->size));
    if (needs.binary)
        needs.payload += sizeof HDRCHARSET - 1;
    return needs;
}

static size_t padded(size_t size)
{
    return (size + HEADER_BLOCK - 1) / HEADER_BLOCK * HEADER_BLOCK;
}

static size_t pax_size(const struct header_stamp *stamp, const struct header_entry *entry)
{
    struct needs needs = measure(stamp, entry);
    size_t extended = needs.payload ? HEADER_BLOCK + padded(needs.payload) : 0;
    return extended + HEADER_BLOCK;
}

static uint32_t sum_of(const uint8_t *header)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < HEADER_BLOCK; i++)
        sum += header[i];
    return sum;
}

static const char MAGIC_POSIX[] = "ustar\00000", MAGIC_GNU[] = "ustar  ";
enum { MAGIC_WIDTH = 8 };

/* Put the header of a member of `size` bytes that describe the next member, and zeros for
 * these bytes and their padding. */
static void put_special(uint8_t *out, const char *name, uint64_t mode, size_t size,
                        uint8_t typeflag, const char *magic)
{
    memset(out, 0, HEADER_BLOCK + padded(size));
    memcpy(out + NAME, name, strlen(name));
    put_octal(out + MODE, MODE_WIDTH, mode);
    put_octal(out + UID, ID_WIDTH, 0);
    put_octal(out + GID, ID_WIDTH, 0);
    put_octal(out + SIZE, NUMBER_WIDTH, size);
    put_octal(out + MTIME, NUMBER_WIDTH, 0);
    out[TYPEFLAG] = typeflag;
    memcpy(out + MAGIC, magic, MAGIC_WIDTH);
    put_checksum(out, sum_of(out));
}

/* Put the extended header of an entry: its block, the records, their padding. Returns
 * the end. */
static uint8_t *put_extended(const struct header_stamp *stamp,
                             const struct header_entry *entry,
                             const struct needs *needs, uint8_t *out)
{
    put_special(out, "././@PaxHeader", 0, needs->payload, 'x', MAGIC_POSIX);
    uint8_t *at = out + HEADER_BLOCK;
    if (needs->binary) {
        memcpy(at, HDRCHARSET, sizeof HDRCHARSET - 1);
        at += sizeof HDRCHARSET - 1;
    }
    if (needs->name)
        at = put_record(at, "path", entry->name, entry->name_length);
    if (needs->link)
        at = put_record(at, "linkpath", entry->link, entry->link_length);
    if (stamp->before_length)
        memcpy(at, stamp->before, stamp->before_length);
    at += stamp->before_length;
    if (needs->size) {
        char text[24];
        int length = snprintf(text, sizeof text, "%llu", (unsigned long long)entry->size);
        at = put_record(at, "size", text, (size_t)length);
    }
    if (stamp->after_length)
        memcpy(at, stamp->after, stamp->after_length);
    return out + HEADER_BLOCK + padded(needs->payload);
}

static void pax_encode(const struct header_stamp *stamp, const struct header_entry *entry,
                       uint8_t *out)
{
    struct needs needs = measure(stamp, entry);
    if (needs.payload)
        out = put_extended(stamp, entry, &needs, out);

    memcpy(out, stamp->header, HEADER_BLOCK);
    uint32_t sum = stamp->sum;
    sum += put_text(out + NAME, NAME_WIDTH, entry->name, entry->name_length);
    sum += put_octal(out + MODE, MODE_WIDTH, entry->mode & 07777);
    sum += put_octal(out + SIZE, NUMBER_WIDTH, needs.size ? 0 : entry->size);
    out[TYPEFLAG] = entry->typeflag;
    sum += entry->typeflag;
    sum += put_text(out + LINK, LINK_WIDTH, entry->link, entry->link_length);
    put_checksum(out, sum);
}

/* ---- GNU tar's format --------------------------------------------------- */

/* Return the bytes of the member that holds a name or link target too long for its field,
 * or 0 if it fits. */
static size_t long_size(size_t length, size_t width)
{
    return length > width ? HEADER_BLOCK + padded(length + 1) : 0;
}

static uint8_t *put_long(uint8_t *out, uint8_t typeflag, const uint8_t *text, size_t length,
                         size_t width)
{
    if (length <= width)
        return out;
    put_special(out, "././@LongLink", 0644, length + 1, typeflag, MAGIC_GNU);
    memcpy(out + HEADER_BLOCK, text, length);
    return out + long_size(length, width);
}

static size_t gnu_size(const struct header_stamp *stamp, const struct header_entry *entry)
{
    size_t records = stamp->after_length ? HEADER_BLOCK + padded(stamp->after_length) : 0;
    return records + long_size(entry->link_length, LINK_WIDTH) +
           long_size(entry->name_length, NAME_WIDTH) + HEADER_BLOCK;
}

static void gnu_encode(const struct header_stamp *stamp, const struct header_entry *entry,
                       uint8_t *out)
{
    size_t name = entry->name_length, link = entry->link_length;
    struct needs records = {.payload = stamp->after_length};

    if (records.payload)
        out = put_extended(stamp, entry, &records, out);
    out = put_long(out, 'K', entry->link, link, LINK_WIDTH);
    out = put_long(out, 'L', entry->name, name, NAME_WIDTH);

    memcpy(out, stamp->header, HEADER_BLOCK);
    memcpy(out + NAME, entry->name, name < NAME_WIDTH ? name : NAME_WIDTH);
    put_octal(out + MODE, MODE_WIDTH, entry->mode & 07777);
    put_number(out + SIZE, NUMBER_WIDTH, entry->size, 0);
    out[TYPEFLAG] = entry->typeflag;
    memcpy(out + LINK, entry->link, link < LINK_WIDTH ? link : LINK_WIDTH);
    put_checksum(out, sum_of(out));
}

/* ---- either format ------------------------------------------------------ */

size_t header_size(const struct header_stamp *stamp, const struct header_entry *entry)
{
    return stamp->gnu ? gnu_size(stamp, entry) : pax_size(stamp, entry);
}

void header_encode(const struct header_stamp *stamp, const struct header_entry *entry,
                   uint8_t *out)
{
    if (stamp->gnu)
        gnu_encode(stamp, entry, out);
    else
        pax_encode(stamp, entry, out);
}

/* ---- the stamp ---------------------------------------------------------- */

int header_init(struct header_stamp *stamp, int64_t mtime, uint64_t uid, uint64_t gid,
               const char *uname, const char *gname, struct fault *fault)
{
    size_t uname_length = strlen(uname), gname_length = strlen(gname);
    int number = 0;
    char text[24];

    memset(stamp, 0, sizeof *stamp);
    stamp->before = malloc(uname_length + gname_length + 160);
    stamp->after = malloc(64);
    if (!stamp->before || !stamp->after) {
        header_free(stamp);
        return fault_set(fault, FAULT_MEMORY, 0);
    }

    uint8_t *at = stamp->before;
    if (name_needs_pax((const uint8_t *)uname, uname_length, OWNER_WIDTH))
        at = put_record(at, "uname", uname, uname_length);
    if (name_needs_pax((const uint8_t *)gname, gname_length, OWNER_WIDTH))
        at = put_record(at, "gname", gname, gname_length);
    stamp->binary = !name_is_utf8((const uint8_t *)uname, uname_length) ||
                    !name_is_utf8((const uint8_t *)gname, gname_length);
    if (uid > MAX_ID) {
        number = snprintf(text, sizeof text, "%llu", (unsigned long long)uid);
        at = put_record(at, "uid", text, (size_t)number);
    }
    if (gid > MAX_ID) {
        number = snprintf(text, sizeof text, "%llu", (unsigned long long)gid);
        at = put_record(at, "gid", text, (size_t)number);
    }
    stamp->before_length = (size_t)(at - stamp->before);

    int mtime_fits = mtime >= 0 && (uint64_t)mtime <= MAX_NUMBER;
    if (!mtime_fits) {
        number = snprintf(text, sizeof text, "%lld", (long long)mtime);
        at = put_record(stamp->after, "mtime", text, (size_t)number);
        stamp->after_length = (size_t)(at - stamp->after);
    }

    uint8_t *header = stamp->header;
    put_octal(header + UID, ID_WIDTH, uid > MAX_ID ? 0 : uid);
    put_octal(header + GID, ID_WIDTH, gid > MAX_ID ? 0 : gid);
    put_octal(header + MTIME, NUMBER_WIDTH, mtime_fits ? (uint64_t)mtime : 0);
    memcpy(header + MAGIC, MAGIC_POSIX, MAGIC_WIDTH);
    put_text(header + UNAME, OWNER_WIDTH, (const uint8_t *)uname, uname_length);
    put_text(header + GNAME, OWNER_WIDTH, (const uint8_t *)gname, gname_length);
    stamp->sum = sum_of(header);
    return 0;
}

void header_init_gnu(struct header_stamp *stamp, int64_t mtime, uint64_t uid, uint64_t gid)
{
    memset(stamp, 0, sizeof *stamp);
    stamp->gnu = 1;
    put_number(stamp->header + UID, ID_WIDTH, uid, 0);
    put_number(stamp->header + GID, ID_WIDTH, gid, 0);
    put_number(stamp->header + MTIME, NUMBER_WIDTH, (uint64_t)mtime, mtime < 0);
    memcpy(stamp->header + MAGIC, MAGIC_GNU, MAGIC_WIDTH);
}

void header_set_device(struct header_stamp *stamp, uint32_t major, uint32_t minor)
{
    put_octal(stamp->header + MAJOR, DEVICE_WIDTH, major);
    put_octal(stamp->header + MINOR, DEVICE_WIDTH, minor);
    stamp->sum = sum_of(stamp->header);
}

int header_add_records(struct header_stamp *stamp, const uint8_t *records, size_t length,
                      struct fault *fault)
{
    if (!length)
        return 0;
    uint8_t *after = realloc(stamp->after, stamp->after_length + length);
    if (!after)
        return fault_set(fault, FAULT_MEMORY, 0);
    memcpy(after + stamp->after_length, records, length);
    stamp->after = after;
    stamp->after_length += length;
    stamp->binary |= !name_is_utf8(records, length);
    return 0;
}

void header_free(struct header_stamp *stamp)
{
    free(stamp->before);
    free(stamp->after);
    stamp->before = stamp->after = NULL;
}
