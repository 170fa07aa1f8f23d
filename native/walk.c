#include "walk.h"

#include "memory.h"
#include "name.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The part of a struct stat that is kept. */
struct status {
    mode_t mode;
    uint64_t size;
    struct records_witness witness;
};

static void status_set(struct status *status, const struct stat *stat)
{
    status->mode = stat->st_mode;
    status->size = (uint64_t)stat->st_size;
    status->witness = records_witness_of(stat);
}

/* One item of a directory. */
struct item {
    uint32_t name; /* offset into the listing's `names` */
    uint32_t length;
    struct status status;
};

/* A directory's items, read and sorted before any is entered, so that only one directory
 * is open at a time however deep the tree is. */
struct listing {
    struct item *items;
    size_t count, capacity;
    char *names; /* each terminated */
    size_t names_length, names_capacity;
    int utf8; /* every name is UTF-8, so that byte order is code point order */
};

struct walker {
    struct records *records;
    struct fault *fault;
    char path[PATH_MAX + 256]; /* on disk, of the current entry; longer only for faults */
    size_t length;
    char target[PATH_MAX]; /* of a link; here to keep the recursion's frames small */
};

static int walk_fault(struct walker *walker, enum fault_kind kind, int errnum,
                      const char *reason)
{
    return fault_at(walker->fault, kind, errnum, reason, (uint8_t *)walker->path,
                    walker->length);
}

/* Go from the directory at `parent_length` in the path to the item `name` in it. What
 * does not fit is cut. */
static void enter(struct walker *walker, size_t parent_length, const char *name,
                  size_t length)
{
    size_t room = sizeof walker->path - parent_length - 2;
    if (length > room)
        length = room;
    walker->path[parent_length] = '/';
    memcpy(walker->path + parent_length + 1, name, length);
    walker->length = parent_length + 1 + length;
    walker->path[walker->length] = '\0';
}

static const char *unsupported(mode_t mode)
{
    if (S_ISSOCK(mode))
        return "is a socket";
    if (S_ISFIFO(mode))
        return "is a FIFO";
    if (S_ISCHR(mode) || S_ISBLK(mode))
        return "is a device node";
    return "is of an unknown file type";
}

static const char WHITEOUT[] = "begins with .wh., which marks a deleted file in a layer; "
                               "rename or remove it";

/* Is the file at walker->path named like a whiteout? OCI Image Specification, layer.md. */
static int is_whiteout(const struct walker *walker)
{
    const char *slash = memrchr(walker->path, '/', walker->length);
    return !strncmp(slash ? slash + 1 : walker->path, ".wh.", 4);
}

static int compare_items(const void *a, const void *b, void *names)
{
    const struct item *left = a, *right = b;
    return strcmp((char *)names + left->name, (char *)names + right->name);
}

static int compare_decoded_items(const void *a, const void *b, void *names)
{
    const struct item *left = a, *right = b;
    return name_compare((uint8_t *)names + left->name, left->length,
                        (uint8_t *)names + right->name, right->length);
}

static void listing_free(struct listing *listing)
{
    free(listing->items);
    free(listing->names);
}

static int listing_add(struct listing *listing, const char *name, size_t length)
{
    struct item *items =
        memory_grow(listing->items, listing->count, 1, &listing->capacity, sizeof *items);
    if (!items)
        return -1;
    listing->items = items;
    char *names = memory_grow(listing->names, listing->names_length, length + 1,
                              &listing->names_capacity, 1);
    if (!names)
        return -1;
    listing->names = names;
    memcpy(names + listing->names_length, name, length + 1);
    items[listing->count].name = (uint32_t)listing->names_length;
    items[listing->count].length = (uint32_t)length;
    listing->names_length += length + 1;
    listing->count++;
    if (listing->utf8)
        listing->utf8 = name_is_utf8((const uint8_t *)name, length);
    return 0;
}

/* Read the directory at walker->path, sorted, with the status of each item. `listing` is
 * the caller's to free, also on failure. */
static int list_directory(struct walker *walker, struct listing *listing)
{
    int fd, result = -1;
    DIR *directory = NULL;

    fd = open(walker->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return walk_fault(walker, FAULT_READ, errno, NULL);
    directory = fdopendir(fd);
    if (!directory) {
        walk_fault(walker, FAULT_READ, errno, NULL);
        close(fd);
        return -1;
    }
    for (;;) {
        errno = 0;
        struct dirent *found = readdir(directory);
        if (!found) {
            if (errno) {
                walk_fault(walker, FAULT_READ, errno, NULL);
                goto exit;
            }
            break;
        }
        const char *name = found->d_name;
        if (name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2])))
            continue;
        if (listing_add(listing, name, strlen(name)) < 0) {
            fault_set(walker->fault, FAULT_MEMORY, 0);
            goto exit;
        }
    }
    if (listing->count > 1)
        qsort_r(listing->items, listing->count, sizeof *listing->items,
                listing->utf8 ? compare_items : compare_decoded_items, listing->names);
    for (size_t i = 0; i < listing->count; i++) {
        struct item *item = &listing->items[i];
        const char *name = listing->names + item->name;
        struct stat stat;
        if (fstatat(fd, name, &stat, AT_SYMLINK_NOFOLLOW) < 0) {
            int errnum = errno;
            enter(walker, walker->length, name, item->length);
            walk_fault(walker, FAULT_READ, errnum, NULL);
            goto exit;
        }
        status_set(&item->status, &stat);
    }
    result = 0;
exit:
    closedir(directory);
    return result;
}

static int walk_entry(struct walker *walker, const struct status *status);

static int walk_directory(struct walker *walker)
{
    struct listing listing = {.utf8 = 1};
    size_t parent_length = walker->length;
    int result = list_directory(walker, &listing);

    for (size_t i = 0; result == 0 && i < listing.count; i++) {
        const struct item *item = &listing.items[i];
        enter(walker, parent_length, listing.names + item->name, item->length);
        if (walker->length >= PATH_MAX)
            result = walk_fault(walker, FAULT_READ, ENAMETOOLONG, NULL);
        else
            result = walk_entry(walker, &item->status);
    }
    if (result == 0) {
        walker->length = parent_length;
        walker->path[parent_length] = '\0';
    }
    listing_free(&listing);
    return result;
}

/* Append the entry at walker->path and everything below it. On success the path is as
 * before; on failure it is that of the fault. */
static int walk_entry(struct walker *walker, const struct status *status)
{
    size_t root_length = walker->records->root_length;
    struct header_entry entry = {
        .mode = status->mode & 07777,
        .name = (const uint8_t *)walker->path + root_length,
        .name_length = (uint32_t)(walker->length - root_length),
        .link = (const uint8_t *)walker->target,
    };

    if (is_whiteout(walker))
        return walk_fault(walker, FAULT_ENTRY, 0, WHITEOUT);
    if (S_ISREG(status->mode)) {
        entry.typeflag = '0';
        entry.size = status->size;
    } else if (S_ISDIR(status->mode)) {
        entry.typeflag = '5';
        walker->path[walker->length] = '/';
        entry.name_length++;
    } else if (S_ISLNK(status->mode)) {
        ssize_t length = readlink(walker->path, walker->target, sizeof walker->target);
        if (length < 0)
            return walk_fault(walker, FAULT_READ, errno, NULL);
        entry.typeflag = '2';
        entry.link_length = (uint32_t)length;
    } else {
        return walk_fault(walker, FAULT_ENTRY, 0, unsupported(status->mode));
    }
    if (records_add(walker->records, &entry, &status->witness, walker->fault) < 0)
        return -1;
    if (entry.typeflag != '5')
        return 0;
    walker->path[walker->length] = '\0';
    return walk_directory(walker);
}

int walk_tree(struct records *records, const char *path, struct fault *fault)
{
    struct walker walker = {.records = records, .fault = fault};
    struct stat stat;
    size_t length = strlen(path), root_length = records->root_length;

    if (length >= PATH_MAX || root_length >= PATH_MAX - length)
        return fault_at(fault, FAULT_READ, ENAMETOOLONG, NULL, (const uint8_t *)path,
                        length);
    memcpy(walker.path, records->root, root_length);
    memcpy(walker.path + root_length, path, length + 1);
    walker.length = root_length + length;
    if (lstat(walker.path, &stat) < 0)
        return walk_fault(&walker, FAULT_READ, errno, NULL);
    struct status status;
    status_set(&status, &stat);
    return walk_entry(&walker, &status);
}
