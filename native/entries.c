/* The metadata of one layer: walked from directory trees, kept in one
 * contiguous block, in the order in which the layer holds it.
 *
 * A record is   typeflag 1 | mode 2 | size 8 | name length 4 | link length 4 |
 *               name | link target
 * with little-endian numbers, so that equal trees give equal bytes anywhere. */
#include "core.h"

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RECORD_HEAD = 1 + 2 + 8 + 4 + 4 };

void entries_free(struct entries *entries)
{
    stamp_free(&entries->stamp);
    free(entries->records);
    free(entries->witnesses);
    entries->records = NULL;
    entries->witnesses = NULL;
}

/* Make room for `need` more units of `unit` bytes; doubles, so that appending
 * is linear. */
static void *grow(void *block, size_t used, size_t need, size_t *capacity, size_t unit)
{
    if (used + need <= *capacity)
        return block;
    size_t wanted = *capacity ? *capacity * 2 : 4096;
    while (wanted < used + need)
        wanted *= 2;
    void *bigger = realloc(block, wanted * unit);
    if (bigger)
        *capacity = wanted;
    return bigger;
}

int entries_add(struct entries *entries, const struct entry *entry,
                const struct witness *witness, struct fault *fault)
{
    size_t need = RECORD_HEAD + (size_t)entry->name_length + entry->link_length;
    uint8_t *records =
        grow(entries->records, entries->length, need, &entries->capacity, 1);
    if (!records)
        return fault_set(fault, FAULT_MEMORY, 0);
    entries->records = records;
    struct witness *witnesses = grow(entries->witnesses, entries->count, 1,
                                     &entries->witness_capacity, sizeof *witnesses);
    if (!witnesses)
        return fault_set(fault, FAULT_MEMORY, 0);
    entries->witnesses = witnesses;

    uint8_t *at = records + entries->length;
    uint16_t mode = htole16(entry->mode);
    uint64_t size = htole64(entry->size);
    uint32_t name_length = htole32(entry->name_length);
    uint32_t link_length = htole32(entry->link_length);
    at[0] = entry->typeflag;
    memcpy(at + 1, &mode, 2);
    memcpy(at + 3, &size, 8);
    memcpy(at + 11, &name_length, 4);
    memcpy(at + 15, &link_length, 4);
    memcpy(at + RECORD_HEAD, entry->name, entry->name_length);
    if (entry->link_length)
        memcpy(at + RECORD_HEAD + entry->name_length, entry->link, entry->link_length);
    entries->length += need;
    witnesses[entries->count++] = *witness;
    entries->tar_size += header_size(&entries->stamp, entry) +
                         (entry->size + BLOCK - 1) / BLOCK * BLOCK;
    return 0;
}

size_t entries_decode(const struct entries *entries, size_t offset, struct entry *entry)
{
    const uint8_t *at = entries->records + offset;
    uint16_t mode;
    uint64_t size;
    uint32_t name_length, link_length;
    memcpy(&mode, at + 1, 2);
    memcpy(&size, at + 3, 8);
    memcpy(&name_length, at + 11, 4);
    memcpy(&link_length, at + 15, 4);
    entry->typeflag = at[0];
    entry->mode = le16toh(mode);
    entry->size = le64toh(size);
    entry->name_length = le32toh(name_length);
    entry->link_length = le32toh(link_length);
    entry->name = at + RECORD_HEAD;
    entry->link = entry->name + entry->name_length;
    return offset + RECORD_HEAD + entry->name_length + entry->link_length;
}

/* ---- the walk --------------------------------------------------------- */

/* A directory's items, read and sorted before any is entered, so that only one
 * directory is open at a time however deep the tree is. */
struct item {
    uint32_t name; /* offset into `names` */
    uint32_t length;
    struct stat stat;
};

struct listing {
    struct item *items;
    size_t count, capacity;
    char *names;
    size_t names_length, names_capacity;
    int utf8; /* every name is UTF-8: byte order is code point order */
};

struct walker {
    struct entries *entries;
    struct fault *fault;
    char path[PATH_MAX + 2]; /* of the entry at hand, and a slash */
    size_t length;
    char target[PATH_MAX]; /* of a link; here, to keep the recursion's frames small */
};

static int walk_fault(struct walker *walker, enum fault_kind kind, int errnum,
                      const char *reason)
{
    return fault_at(walker->fault, kind, errnum, reason, (uint8_t *)walker->path,
                    walker->length);
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
        grow(listing->items, listing->count, 1, &listing->capacity, sizeof *items);
    if (!items)
        return -1;
    listing->items = items;
    char *names = grow(listing->names, listing->names_length, length + 1,
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

/* Read the directory at walker->path, sorted, with the status of each item. */
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
        if (fstatat(fd, name, &item->stat, AT_SYMLINK_NOFOLLOW) < 0) {
            int errnum = errno;
            size_t room = sizeof walker->path - walker->length - 2;
            size_t length = item->length < room ? item->length : room;
            walker->path[walker->length] = '/';
            memcpy(walker->path + walker->length + 1, name, length);
            walker->length += length + 1;
            walk_fault(walker, FAULT_READ, errnum, NULL);
            goto exit;
        }
    }
    result = 0;
exit:
    closedir(directory);
    return result;
}

static int walk_entry(struct walker *walker, const struct stat *stat);

static int walk_directory(struct walker *walker)
{
    struct listing listing = {.utf8 = 1};
    size_t parent_length = walker->length;
    int result = list_directory(walker, &listing);

    for (size_t i = 0; result == 0 && i < listing.count; i++) {
        const struct item *item = &listing.items[i];
        if (parent_length + 1 + item->length >= PATH_MAX) {
            result = walk_fault(walker, FAULT_READ, ENAMETOOLONG, NULL);
            break;
        }
        walker->path[parent_length] = '/';
        memcpy(walker->path + parent_length + 1, listing.names + item->name,
               item->length + 1);
        walker->length = parent_length + 1 + item->length;
        result = walk_entry(walker, &item->stat);
    }
    if (result == 0) {
        walker->length = parent_length;
        walker->path[parent_length] = '\0';
    }
    listing_free(&listing);
    return result;
}

/* Append the entry at walker->path, and what is below it. */
static int walk_entry(struct walker *walker, const struct stat *stat)
{
    struct entry entry = {
        .mode = stat->st_mode & 07777,
        .name = (const uint8_t *)walker->path,
        .name_length = (uint32_t)walker->length,
        .link = (const uint8_t *)walker->target,
    };
    struct witness witness = {
        .device = stat->st_dev,
        .inode = stat->st_ino,
        .mtime_sec = stat->st_mtim.tv_sec,
        .mtime_nsec = stat->st_mtim.tv_nsec,
    };

    if (S_ISREG(stat->st_mode)) {
        entry.typeflag = '0';
        entry.size = (uint64_t)stat->st_size;
    } else if (S_ISDIR(stat->st_mode)) {
        entry.typeflag = '5';
        walker->path[entry.name_length++] = '/';
    } else if (S_ISLNK(stat->st_mode)) {
        ssize_t length = readlink(walker->path, walker->target, sizeof walker->target);
        if (length < 0)
            return walk_fault(walker, FAULT_READ, errno, NULL);
        entry.typeflag = '2';
        entry.link_length = (uint32_t)length;
    } else {
        return walk_fault(walker, FAULT_ENTRY, 0, unsupported(stat->st_mode));
    }
    if (entries_add(walker->entries, &entry, &witness, walker->fault) < 0)
        return -1;
    if (entry.typeflag != '5')
        return 0;
    walker->path[walker->length] = '\0';
    return walk_directory(walker);
}

int entries_walk(struct entries *entries, const char *path, struct fault *fault)
{
    struct walker walker = {.entries = entries, .fault = fault};
    struct stat stat;
    size_t length = strlen(path);

    if (length >= PATH_MAX)
        return fault_at(fault, FAULT_READ, ENAMETOOLONG, NULL, (const uint8_t *)path, length);
    memcpy(walker.path, path, length + 1);
    walker.length = length;
    if (lstat(path, &stat) < 0)
        return walk_fault(&walker, FAULT_READ, errno, NULL);
    return walk_entry(&walker, &stat);
}
