/* What the parts of the extension share. Everything declared here is plain C
 * without Python, so that it runs with the GIL released; tarhash.c alone knows
 * Python.
 *
 *   header.c   one entry -> its tar header blocks
 *   entries.c  directory trees -> the metadata of one layer
 *   pool.c     bytes -> file descriptor, hashed beside the writing
 *   copy.c     entries and the files they name -> the pool
 *   tarhash.c  the Python types Entries and Writer
 */
#ifndef STREAM_IMAGE_CORE_H
#define STREAM_IMAGE_CORE_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { BLOCK = 512, DIGEST_SIZE = 32 };

/* Why a function returned -1. `path` names the file the fault belongs to, and
 * is empty for faults of the output. */
enum fault_kind {
    FAULT_NONE,
    FAULT_MEMORY,      /* malloc said no */
    FAULT_CRYPTO,      /* libcrypto said no */
    FAULT_READ,        /* errnum, path */
    FAULT_WRITE,       /* errnum */
    FAULT_ENTRY,       /* path, reason: the file cannot be what is asked */
    FAULT_STATE,       /* a call out of turn */
    FAULT_INTERRUPTED, /* the `interrupted` callback said so */
};

struct fault {
    enum fault_kind kind;
    int errnum;
    const char *reason; /* static text */
    char path[PATH_MAX + 256];
};

int fault_set(struct fault *fault, enum fault_kind kind, int errnum);
int fault_at(struct fault *fault, enum fault_kind kind, int errnum,
             const char *reason, const uint8_t *path, size_t length);

/* ---- header.c --------------------------------------------------------- */

/* One member as a tar header describes it. Names are bytes, not terminated; a
 * directory's ends in a slash. */
struct entry {
    uint8_t typeflag; /* POSIX: '0' file, '1' hard link, '2' link, '5' directory */
    uint16_t mode;
    uint64_t size; /* bytes of payload */
    const uint8_t *name;
    uint32_t name_length;
    const uint8_t *link;
    uint32_t link_length;
};

/* What all entries of one layer have in common, encoded once. */
struct stamp {
    uint8_t header[BLOCK]; /* all fields but name, mode, size, type, link, checksum */
    uint32_t sum;          /* of the bytes in `header` */
    uint8_t *before;       /* PAX records that stand before `size` */
    size_t before_length;
    uint8_t *after; /* and after it */
    size_t after_length;
    int binary; /* an owner name is not UTF-8 */
    int gnu;    /* in GNU tar's format, where there is no `before` */
};

int stamp_init(struct stamp *stamp, int64_t mtime, uint64_t uid, uint64_t gid,
               const char *uname, const char *gname, struct fault *fault);
/* The same in GNU tar's own format, owners without names, ids below 2^56. */
void stamp_init_gnu(struct stamp *stamp, int64_t mtime, uint64_t uid, uint64_t gid);
/* For a stamp of one entry: a device's numbers, each below 2^21, and more PAX
 * records, encoded. */
void stamp_set_device(struct stamp *stamp, uint32_t major, uint32_t minor);
int stamp_add_records(struct stamp *stamp, const uint8_t *records, size_t length,
                      struct fault *fault);
void stamp_free(struct stamp *stamp);

/* Bytes of header blocks for `entry`: 512, or more where it does not fit into one. */
size_t header_size(const struct stamp *stamp, const struct entry *entry);
/* Write those bytes. `out` holds header_size() bytes. */
void header_encode(const struct stamp *stamp, const struct entry *entry, uint8_t *out);

/* Python's order of names decoded with surrogateescape: by code point, with a
 * byte that is not UTF-8 standing as U+DC80 + (byte - 0x80). */
int name_compare(const uint8_t *a, size_t a_length, const uint8_t *b, size_t b_length);
int name_is_utf8(const uint8_t *name, size_t length);

/* ---- entries.c -------------------------------------------------------- */

/* What must not change between the walk and the read of a file. */
struct witness {
    uint64_t device;
    uint64_t inode;
    int64_t mtime_sec;
    int64_t mtime_nsec;
};

/* The metadata of one layer. `records` is a canonical encoding (see
 * entries.c), equal on every machine for equal trees: what a fingerprint is
 * made of. `witnesses` has one item per entry and is not part of it. */
struct entries {
    struct stamp stamp;
    char *root; /* stands before every name on disk, and in no record */
    size_t root_length;
    uint8_t *records;
    size_t length, capacity;
    struct witness *witnesses;
    size_t count, witness_capacity;
    uint64_t tar_size; /* bytes of all headers, payloads and their padding */
    uint8_t *last;     /* the name added last, of which the next shares a part */
    size_t last_length, last_capacity;
};

/* Where a reader of the records stands. Begins as zeros. */
struct cursor {
    size_t offset;
    uint8_t *name; /* of the entry at hand */
    size_t name_capacity;
};

int entries_set_root(struct entries *entries, const char *root, struct fault *fault);
void entries_free(struct entries *entries);
int entries_add(struct entries *entries, const struct entry *entry,
                const struct witness *witness, struct fault *fault);
/* Append what is at `path` below the root and, if it is a directory, everything
 * below it. */
int entries_walk(struct entries *entries, const char *path, struct fault *fault);
/* Decode the next record; `entry` is good until the one after it. */
int entries_decode(const struct entries *entries, struct cursor *cursor,
                   struct entry *entry, struct fault *fault);
void cursor_free(struct cursor *cursor);

/* ---- pool.c ----------------------------------------------------------- */

struct pool;

/* `interrupted` is called now and then from the writing thread; if it returns
 * non-zero the running call ends with FAULT_INTERRUPTED. */
struct pool *pool_new(int fd, int (*interrupted)(void *), void *context,
                      struct fault *fault);
void pool_free(struct pool *pool);
uint64_t pool_position(struct pool *pool); /* bytes accepted so far; any thread */

/* For callers whose own system call was interrupted. */
int pool_check_interrupted(struct pool *pool, struct fault *fault);

/* The free bytes at hand (at least one): fill some, then advance past them. */
int pool_space(struct pool *pool, uint8_t **space, size_t *length, struct fault *fault);
void pool_advance(struct pool *pool, size_t length);

int pool_write(struct pool *pool, const uint8_t *data, size_t length, struct fault *fault);
int pool_zeros(struct pool *pool, size_t length, struct fault *fault);
int pool_flush(struct pool *pool, struct fault *fault);

/* Bytes written between begin and end are a layer and hashed. `end` does not
 * wait; it gives the number (from 0) by which pool_digest() gives the result:
 * 1, or 0 if it is not there yet and the caller does not want to wait. */
int pool_hash_begin(struct pool *pool, struct fault *fault);
int pool_hash_end(struct pool *pool, size_t *number, struct fault *fault);
int pool_digest(struct pool *pool, size_t number, int wait, uint8_t digest[DIGEST_SIZE],
                struct fault *fault);

/* ---- copy.c ----------------------------------------------------------- */

/* Copy `count` bytes of `source` from `offset`, or from where it stands if
 * `offset` is negative. `path` names it in faults. */
int copy_range(struct pool *pool, int source, off_t offset, uint64_t count,
               const char *path, struct fault *fault);
/* Write every entry: header, content read from the file of its name below the
 * root, padding. */
int copy_entries(struct pool *pool, const struct entries *entries, struct fault *fault);

#endif
