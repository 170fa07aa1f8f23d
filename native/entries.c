/* The metadata of one layer: walked from directory trees, kept in one
 * contiguous block, in the order in which the layer holds it.
 *
 * A record is   typeflag 1 | mode 2 | size 8 | shared 4 | rest 4 | link length 4 |
 *               rest of the name | link target
 * with little-endian numbers, so that equal trees give equal bytes anywhere. A
 * name is the first `shared` bytes of the one before, as many as are equal, and
 * the rest: most of a path is its directory's, and metadata is what memory goes
 * to. */
#include "core.h"

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RECORD_HEAD = 1 + 2 + 8 + 4 + 4 + 4 };
enum { FIRST_PAGES = 64 * 1024 };

/* Memory that grows in place and goes back to the system when it is freed, not
 * to an allocator that keeps it: the metadata of a layer is large and short-lived. */
static void *grow_pages(void *block, size_t used, size_t need, size_t *capacity,
                        size_t unit)
{
    if (used + need <= *capacity)
        return block;
    size_t wanted = *capacity ? *capacity * 2 : FIRST_PAGES / unit;
    while (wanted < used + need)
        wanted *= 2;
    void *bigger = block ? mremap(block, *capacity * unit, wanted * unit, MREMAP_MAYMOVE)
                         : mmap(NULL, wanted * unit, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bigger == MAP_FAILED)
        return NULL;
    *capacity = wanted;
    return bigger;
}

static void free_pages(void *block, size_t capacity, size_t unit)
{
    if (block)
        munmap(block, capacity * unit);
}

int entries_set_root(struct entries *entries, const char *root, struct fault *fault)
{
    char *copy = strdup(root);
    if (!copy)
        return fault_set(fault, FAULT_MEMORY, 0);
    entries->root = copy;
    entries->root_length = strlen(copy);
    return 0;
}

void entries_free(struct entries *entries)
{
    stamp_free(&entries->stamp);
    free(entries->root);
    free_pages(entries->records, entries->capacity, 1);
    free_pages(entries->witnesses, entries->witness_capacity, sizeof *entries->witnesses);
    free(entries->last);
    entries->root = NULL;
    entries->records = NULL;
    entries->witnesses = NULL;
    entries->last = NULL;
}

/* Make room for `need` more units of `unit` bytes; doubles, so that appending
 * is linear. */
static void *grow(void *block, size_t used, size_t need, size_t *capacity, size_t unit)
{
    if (used + need <= *capacity)
        return block;
    size_t wanted = *capacity ? *capacity * 2 : 64;
    while (wanted < used + need)
        wanted *= 2;
    void *bigger = realloc(block, wanted * unit);
    if (bigger)
        *capacity = wanted;
    return bigger;
}

static size_t shared_length(const struct entries *entries, const struct entry *entry)
{
    size_t length = 0;
    while (length < entries->last_length && length < entry->name_length &&
           entries->last[length] == entry->name[length])
        length++;
    return length;
}

int entries_add(struct entries *entries, const struct entry *entry,
                const struct witness *witness, struct fault *fault)
{
    size_t shared = shared_length(entries, entry);
    size_t rest = entry->name_length - shared;
    size_t need = RECORD_HEAD + rest + entry->link_length;
    uint8_t *last = grow(entries->last, 0, entry->name_length, &entries->last_capacity, 1);
    if (!last && entry->name_length)
        return fault_set(fault, FAULT_MEMORY, 0);
    entries->last = last;
    uint8_t *records =
        grow_pages(entries->records, entries->length, need, &entries->capacity, 1);
    if (!records)
        return fault_set(fault, FAULT_MEMORY, 0);
    entries->records = records;
    struct witness *witnesses = grow_pages(entries->witnesses, entries->count, 1,
                                           &entries->witness_capacity, sizeof *witnesses);
    if (!witnesses)
        return fault_set(fault, FAULT_MEMORY, 0);
    entries->witnesses = witnesses;

    uint8_t *at = records + entries->length;
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
    entries->length += need;
    entries->last_length = entry->name_length;
    witnesses[entries->count++] = *witness;
    entries->tar_size += header_size(&entries->stamp, entry) +
                         (entry->size + BLOCK - 1) / BLOCK * BLOCK;
    return 0;
}

int entries_decode(const struct entries *entries, struct cursor *cursor,
                   struct entry *entry, struct fault *fault)
{
    const uint8_t *at = entries->records + cursor->offset;
    uint16_t mode;
    uint64_t size;
    uint32_t lengths[3];
    memcpy(&mode, at + 1, 2);
    memcpy(&size, at + 3, 8);
    memcpy(lengths, at + 11, 12);
    uint32_t shared = le32toh(lengths[0]), rest = le32toh(lengths[1]);
    uint8_t *name = grow(cursor->name, 0, (size_t)shared + rest, &cursor->name_capacity, 1);
    if (!name && shared + rest)
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

void cursor_free(struct cursor *cursor)
{
    free(cursor->name);
}

/* ---- the walk --------------------------------------------------------- */

/* What is kept of a struct stat. */
struct status {
    mode_t mode;
    uint64_t size;
    struct witness witness;
};

static void status_set(struct status *status, const struct stat *stat)
{
    status->mode = stat->st_mode;
    status->size = (uint64_t)stat->st_size;
    status->witness = (struct witness){
        .device = stat->st_dev,
        .inode = stat->st_ino,
        .mtime_sec = stat->st_mtim.tv_sec,
        .mtime_nsec = stat->st_mtim.tv_nsec,
    };
}

/* A directory's items, read and sorted before any is entered, so that only one
 * directory is open at a time however deep the tree is. */
struct item {
    uint32_t name; /* offset into `names` */
    uint32_t length;
    struct status status;
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
    char path[PATH_MAX + 2]; /* on disk, of the entry at hand, and a slash */
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
        struct stat stat;
        if (fstatat(fd, name, &stat, AT_SYMLINK_NOFOLLOW) < 0) {
            int errnum = errno;
            size_t room = sizeof walker->path - walker->length - 2;
            size_t length = item->length < room ? item->length : room;
            walker->path[walker->length] = '/';
            memcpy(walker->path + walker->length + 1, name, length);
            walker->length += length + 1;
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
        if (parent_length + 1 + item->length >= PATH_MAX) {
            result = walk_fault(walker, FAULT_READ, ENAMETOOLONG, NULL);
            break;
        }
        walker->path[parent_length] = '/';
        memcpy(walker->path + parent_length + 1, listing.names + item->name,
               item->length + 1);
        walker->length = parent_length + 1 + item->length;
        result = walk_entry(walker, &item->status);
    }
    if (result == 0) {
        walker->length = parent_length;
        walker->path[parent_length] = '\0';
    }
    listing_free(&listing);
    return result;
}

/* Append the entry at walker->path, and what is below it. */
static int walk_entry(struct walker *walker, const struct status *status)
{
    size_t root_length = walker->entries->root_length;
    struct entry entry = {
        .mode = status->mode & 07777,
        .name = (const uint8_t *)walker->path + root_length,
        .name_length = (uint32_t)(walker->length - root_length),
        .link = (const uint8_t *)walker->target,
    };

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
    if (entries_add(walker->entries, &entry, &status->witness, walker->fault) < 0)
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
    size_t length = strlen(path), root_length = entries->root_length;

    if (length >= PATH_MAX || root_length >= PATH_MAX - length)
        return fault_at(fault, FAULT_READ, ENAMETOOLONG, NULL, (const uint8_t *)path, length);
    memcpy(walker.path, entries->root, root_length);
    memcpy(walker.path + root_length, path, length + 1);
    walker.length = root_length + length;
    if (lstat(walker.path, &stat) < 0)
        return walk_fault(&walker, FAULT_READ, errno, NULL);
    struct status status;
    status_set(&status, &stat);
    return walk_entry(&walker, &status);
}
