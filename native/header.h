/* One member of a tar as its header blocks, in one of two formats:
 *
 *   - PAX, to the byte as CPython's tarfile writes it by default: one ustar block,
 *     preceded by an extended header if a field does not fit or is not ASCII. See
 *     POSIX.1-2008, pax, "ustar Interchange Format" and "pax Extended Header".
 *   - GNU tar's own. See its manual, "Basic Tar Format".
 */
#ifndef STREAM_IMAGE_HEADER_H
#define STREAM_IMAGE_HEADER_H

#include "fault.h"

#include <stddef.h>
#include <stdint.h>

enum { HEADER_BLOCK = 512 }; /* bytes of a tar's block */

/* One member. The names are borrowed; a directory's ends in a slash. */
struct header_entry {
    uint8_t typeflag; /* POSIX: '0' file, '1' hard link, '2' symbolic link, '5' directory */
    uint16_t mode;    /* permission bits, at most 07777 */
    uint64_t size;    /* bytes of content */
    const uint8_t *name;
    uint32_t name_length;
    const uint8_t *link; /* the target, of links only */
    uint32_t link_length;
};

/* The owner and time that the members of a layer share, encoded once. Its fields are
 * header.c's own. The caller owns the struct, header_free() frees its contents. */
struct header_stamp {
    uint8_t header[HEADER_BLOCK]; /* without name, mode, size, type, link and checksum */
    uint32_t sum;                 /* of the bytes in `header` */
    uint8_t *before;              /* PAX records that precede `size` */
    size_t before_length;
    uint8_t *after; /* PAX records that follow it */
    size_t after_length;
    int binary; /* an owner's name, or a record, is not UTF-8 */
    int gnu;    /* in GNU tar's format, where `before` is empty */
};

/* Make a stamp for PAX headers: `mtime` in seconds since 1970, any owner, names
 * terminated and copied. On failure there is nothing to free. */
int header_init(struct header_stamp *stamp, int64_t mtime, uint64_t uid, uint64_t gid,
                const char *uname, const char *gname, struct fault *fault);

/* Make a stamp for GNU tar's headers, in which owners have no names and ids are below
 * 2^56. Cannot fail. */
void header_init_gnu(struct header_stamp *stamp, int64_t mtime, uint64_t uid, uint64_t gid);

/* Add the numbers of a device, each below 2^21, to a stamp for that one member. */
void header_set_device(struct header_stamp *stamp, uint32_t major, uint32_t minor);

/* Append encoded PAX records, copied, to a stamp for one member. On failure the stamp is
 * as it was. */
int header_add_records(struct header_stamp *stamp, const uint8_t *records, size_t length,
                       struct fault *fault);

/* Free what the stamp holds, not the struct. A stamp of zeros, or one that has been
 * freed, is left as it is. */
void header_free(struct header_stamp *stamp);

/* Return the bytes of header_encode()'s result, a multiple of HEADER_BLOCK. Does not
 * change the stamp. */
size_t header_size(const struct header_stamp *stamp, const struct header_entry *entry);

/* Write the header blocks of `entry` to `out`, which has room for header_size() bytes.
 * Does not change the stamp. */
void header_encode(const struct header_stamp *stamp, const struct header_entry *entry,
                   uint8_t *out);

#endif
