/* A directory tree of any names and types, walked and copied: as many bytes as announced. */
#include "copy.h"
#include "walk.h"

#include "input.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILES = 40, MAX_FILE = 100000 };

static char root[64];

static int never(void *context)
{
    (void)context;
    return 0;
}

static int delete(const char *path, const struct stat *found, int kind, struct FTW *place)
{
    (void)found, (void)kind, (void)place;
    return remove(path);
}

static void clear(void)
{
    nftw(root, delete, 20, FTW_DEPTH | FTW_PHYS);
}

/* Make one file of the tree, whose name may lead through others; whatever fails is left out. */
static size_t make_file(struct input *input)
{
    size_t length, link_length;
    unsigned kind = (unsigned)take_number(input, 1);
    size_t size = take_number(input, 2);
    char path[600];
    uint8_t *name = take_bytes(input, &length, 1);
    uint8_t *link = take_bytes(input, &link_length, 1);
    size_t made = 0;

    snprintf(path, sizeof path, "%s/top/%.500s", root, (char *)name);
    /* Neither out of the tree nor through a link out of it. */
    if (!strstr((char *)name, "..") && !strchr((char *)link, '/') && link[0] != '.') {
        if (kind % 4 == 0)
            made = mkdir(path, 0755) == 0;
        else if (kind % 4 == 1)
            made = symlink((char *)link, path) == 0;
        else if (kind % 16 == 2)
            made = mkfifo(path, 0644) == 0;
        else {
            int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600 | (kind & 0111));
            made = fd >= 0;
            if (made) {
                CHECK(ftruncate(fd, (off_t)size) == 0);
                close(fd);
            }
        }
    }
    free(name);
    free(link);
    return made;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};
    struct records records = {0};
    struct fault fault;
    char path[100];

    if (!root[0]) {
        const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
        snprintf(root, sizeof root, "%s/stream-image-fuzz.%d", base, (int)getpid());
        atexit(clear);
    }
    clear();
    snprintf(path, sizeof path, "%s/top", root);
    CHECK(mkdir(root, 0700) == 0 && mkdir(path, 0755) == 0);
    size_t made = 1;
    for (int i = 0; input.length && i < MAX_FILES; i++)
        made += make_file(&input);

    CHECK(header_init(&records.stamp, 1, 0, 0, "root", "root", &fault) == 0);
    CHECK(records_set_root(&records, root, &fault) == 0);
    int result = walk_tree(&records, "/top", &fault);
    if (result == 0) {
        CHECK(records.count == made);
        int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
        struct pool *pool = pool_new(fd, POOL_MAX_SLOTS, never, NULL, &fault);
        CHECK(pool && copy_records(pool, &records, &fault) == 0);
        CHECK(pool_flush(pool, &fault) == 0 && pool_position(pool) == records.tar_size);
        pool_free(pool);
        close(fd);
    } else {
        CHECK(fault.kind == FAULT_ENTRY || fault.kind == FAULT_READ);
    }
    records_free(&records);
    return 0;
}
