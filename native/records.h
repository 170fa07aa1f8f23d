/* The metadata of one layer in one contiguous block, in the order of the layer.
 *
 * A record is   typeflag 1 | mode 2 | size 8 | shared 4 | rest 4 | link length 4 |
 *               rest of the name | link target
 * with little-endian numbers, so that equal trees give equal bytes on every machine:
 * a layer's fingerprint is made of them. A name is the first `shared` bytes of the one
 * before, as many as are equal, and the rest: most of a path is its directory's, and
 * metadata takes most of a run's memory. */
#ifndef STREAM_IMAGE_RECORDS_H
#define STREAM_IMAGE_RECORDS_H

#include "fault.h"
#include "header.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

enum { RECORDS_IDENTITY_SIZE = 4 * 8 };

/* The state of a file that must not change between the walk and the copy. Times are in
 * nanoseconds since the epoch, modulo 2^64. */
struct records_witness {
    uint64_t device;
    uint64_t inode;
    uint64_t mtime;
    uint64_t ctime;
    uint64_t links;
};

/* Return the state of the file with the status `stat`. */
struct records_witness records_witness_of(const struct stat *stat);

/* Return 1 if a file with the status `stat` is still the one of the witness, with the
 * same content, else 0. A new ctime alone counts as new content, as the modification time
 * can be put back; one that a change of the number of links explains does not. */
int records_witness_holds(const struct records_witness *witness, const struct stat *stat);

/* Zeros at first; the caller then makes `stamp` with header_init() and the root with
 * records_set_root(). Others only read it. */
struct records {
    struct header_stamp stamp;
    char *root; /* precedes every name on disk, and is in no record */
    size_t root_length;
    uint8_t *bytes; /* the records; NULL if there are none */
    size_t length, capacity;
    struct records_witness *witnesses; /* one per entry, in no record */
    size_t count, witness_capacity;    /* entries */
    uint64_t tar_size;                 /* bytes of all headers, contents and padding */
    uint8_t *last; /* the name added last, which the next shares a part with */
    size_t last_length, last_capacity;
};

/* A reader's place in the records. Zeros at first; records_cursor_free() ends its use. */
struct records_cursor {
    size_t offset;
    uint8_t *name; /* of the entry decoded last */
    size_t name_capacity;
};

/* Set the root, once. It is terminated, is copied, and is empty if the names are paths on
 * disk as they are. */
int records_set_root(struct records *records, const char *root, struct fault *fault);

/* Free what the records hold, the stamp too, but not the struct, which may not be used
 * again. Records of zeros are left as they are. */
void records_free(struct records *records);

/* Append an entry; its names and the witness are copied. Each name is at most 1 GiB.
 * `bytes` may move. On failure no entry has been added. */
int records_add(struct records *records, const struct header_entry *entry,
                const struct records_witness *witness, struct fault *fault);

/* Write the device, inode, modification time and ctime of every entry to `bytes`, each a
 * little-endian number of 8 bytes: RECORDS_IDENTITY_SIZE for an entry. Return the latest
 * ctime. */
uint64_t records_identities(const struct records *records, uint8_t *bytes);

/* Decode the entry at the cursor and advance to the next. To be called `count` times at
 * most. The entry's name is valid until the next call with this cursor, its link until
 * an entry is added. Several cursors may read at the same time, in several threads. */
int records_decode(const struct records *records, struct records_cursor *cursor,
                   struct header_entry *entry, struct fault *fault);

/* Free what the cursor holds, not the struct. */
void records_cursor_free(struct records_cursor *cursor);

#endif
