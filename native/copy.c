#include "copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Bytes from which on it is cheaper to have the kernel move them, if nobody needs to see them,
 * than to gather them in a buffer together with what comes before and after. */
enum { SEND_MIN = 16 * 1024 };

static const char SHRUNK[] = "is shorter than when it was walked";
static const char CHANGED[] = "changed since it was walked";

static int read_fault(struct fault *fault, int errnum, const char *path)
{
    return fault_at(fault, FAULT_READ, errnum, NULL, (const uint8_t *)path, strlen(path));
}

static int entry_fault(struct fault *fault, const char *reason, const char *path)
{
    return fault_at(fault, FAULT_ENTRY, 0, reason, (const uint8_t *)path, strlen(path));
}

/* Read up to `count` bytes into the pool. Sets `*copied` to the number of bytes taken: 0 only
 * after a signal. */
static int read_some(struct pool *pool, int source, off_t offset, uint64_t count,
                     size_t *copied, const char *path, struct fault *fault)
{
    uint8_t *space;
    size_t room;
    if (pool_space(pool, &space, &room, fault) < 0)
        return -1;
    if (room > count)
        room = (size_t)count;
    ssize_t got = offset < 0 ? read(source, space, room)
                             : pread(source, space, room, offset);
    if (got < 0 && errno != EINTR)
        return read_fault(fault, errno, path);
    if (got < 0)
        return pool_check_interrupted(pool, fault);
    if (got == 0)
        return entry_fault(fault, SHRUNK, path);
    pool_advance(pool, (size_t)got);
    *copied = (size_t)got;
    return 0;
}

int copy_range(struct pool *pool, int source, off_t offset, uint64_t count,
               const char *path, struct fault *fault)
{
    while (count) {
        size_t copied = 0;
        if (count >= SEND_MIN && pool_send(pool, source, offset, count, &copied, fault) < 0)
            return -1;
        if (!copied && read_some(pool, source, offset, count, &copied, path, fault) < 0)
            return -1;
        count -= copied;
        if (offset >= 0)
            offset += (off_t)copied;
    }
    return 0;
}

/* The directory of the last file, kept open: the next one is often in it too, and its
 * path long. `fd` is -1 at first. */
struct directory {
    int fd; /* -1 if none is open */
    size_t length;
    char path[PATH_MAX]; /* terminated */
};

static void directory_close(struct directory *directory)
{
    if (directory->fd >= 0)
        close(directory->fd);
    directory->fd = -1;
}

/* Open the directory of the file at `path`. Returns the file's name in it, which is a
 * part of `path`, or NULL with errno set. */
static const char *directory_enter(struct directory *directory, const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    size_t length = slash > path ? (size_t)(slash - path) : (size_t)(name - path);
    if (directory->fd >= 0 && directory->length == length &&
        !memcmp(directory->path, path, length))
        return name;
    directory_close(directory);
    memcpy(directory->path, path, length);
    directory->path[length] = '\0';
    directory->length = length;
    directory->fd = open(length ? directory->path : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return directory->fd < 0 ? NULL : name;
}

/* Copy the content of a regular file. Its status is taken after reading: if it is still
 * the one the walk saw, nothing replaced, truncated, extended or rewrote the file in
 * between. Never waits for a file that has become a FIFO (O_NONBLOCK), nor follows one
 * that has become a symbolic link (O_NOFOLLOW). */
static int copy_file(struct pool *pool, const struct records *records,
                     const struct header_entry *entry,
                     const struct records_witness *witness, struct directory *directory,
                     struct fault *fault)
{
    char path[PATH_MAX];
    struct stat now;
    size_t root_length = records->root_length;

    if (root_length + entry->name_length >= sizeof path)
        return fault_at(fault, FAULT_READ, ENAMETOOLONG, NULL, entry->name,
                        entry->name_length);
    memcpy(path, records->root, root_length);
    memcpy(path + root_length, entry->name, entry->name_length);
    path[root_length + entry->name_length] = '\0';

    const char *name = directory_enter(directory, path);
    int file = -1;
    if (name)
        file = openat(directory->fd, name,
                      O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (file < 0) {
        if (errno == ELOOP)
            return entry_fault(fault, CHANGED, path);
        return read_fault(fault, errno, path);
    }
    int result = copy_range(pool, file, -1, entry->size, path, fault);
    if (result == 0) {
        if (fstat(file, &now) < 0)
            result = read_fault(fault, errno, path);
        else if (!S_ISREG(now.st_mode) || (uint64_t)now.st_size != entry->size ||
                 !records_witness_holds(witness, &now))
            result = entry_fault(fault, CHANGED, path);
    }
    close(file);
    return result;
}

static int write_header(struct pool *pool, const struct header_stamp *stamp,
                        const struct header_entry *entry, struct fault *fault)
{
    uint8_t *space;
    size_t room, size = header_size(stamp, entry);

    if (pool_space(pool, &space, &room, fault) < 0)
        return -1;
    if (room >= size) {
        header_encode(stamp, entry, space);
        pool_advance(pool, size);
        return 0;
    }
    uint8_t *header = malloc(size); /* it straddles two slots */
    if (!header)
        return fault_set(fault, FAULT_MEMORY, 0);
    header_encode(stamp, entry, header);
    int result = pool_write(pool, header, size, fault);
    free(header);
    return result;
}

static int copy_entry(struct pool *pool, const struct records *records,
                      const struct header_entry *entry,
                      const struct records_witness *witness, struct directory *directory,
                      struct fault *fault)
{
    if (write_header(pool, &records->stamp, entry, fault) < 0)
        return -1;
    if (entry->typeflag != '0')
        return 0;
    if (copy_file(pool, records, entry, witness, directory, fault) < 0)
        return -1;
    return pool_zeros(pool, (size_t)(-entry->size % HEADER_BLOCK), fault);
}

int copy_records(struct pool *pool, const struct records *records, struct fault *fault)
{
    struct records_cursor cursor = {0};
    struct directory directory = {.fd = -1};
    int result = 0;
    for (size_t i = 0; result == 0 && i < records->count; i++) {
        struct header_entry entry;
        result = records_decode(records, &cursor, &entry, fault);
        if (result == 0)
            result = copy_entry(pool, records, &entry, &records->witnesses[i], &directory,
                                fault);
    }
    directory_close(&directory);
    records_cursor_free(&cursor);
    return result;
}
