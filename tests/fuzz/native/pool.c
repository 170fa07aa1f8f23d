/* Writes of any sizes, files that are sent, layers that begin and end anywhere: what arrives is what
 * was written, and each layer has its digest. */
#include "pool.h"

#include "input.h"

#include <openssl/evp.h>
#include <openssl/sha.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_BYTES = 4 << 20, MAX_ENDED = 100, SOURCE_SIZE = 1 << 20 };

static int never(void *context)
{
    (void)context;
    return 0;
}

/* Return a file of SOURCE_SIZE bytes, of which byte n is n * 167 / 256 modulo 256. */
static int source_file(uint8_t content[SOURCE_SIZE])
{
    int fd = memfd_create("source", MFD_CLOEXEC);
    for (size_t i = 0; i < SOURCE_SIZE; i++)
        content[i] = (uint8_t)(i * 167 >> 8);
    CHECK(fd >= 0 && pwrite(fd, content, SOURCE_SIZE, 0) == SOURCE_SIZE);
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t written[MAX_BYTES], arrived[MAX_BYTES], content[SOURCE_SIZE];
    static int source = -1;
    struct input input = {data, size};
    struct fault fault;
    uint8_t expected[MAX_ENDED][POOL_DIGEST_SIZE], digest[POOL_DIGEST_SIZE];
    size_t total = 0, begin = 0, ended = 0;
    int hashing = 0;
    int fd = memfd_create("output", MFD_CLOEXEC);
    CHECK(fd >= 0);
    if (source < 0)
        source = source_file(content);
    struct pool *pool = pool_new(fd, POOL_MAX_SLOTS, never, NULL, &fault);
    CHECK(pool);

    while (input.length && ended < MAX_ENDED) {
        unsigned op = (unsigned)take_number(&input, 1);
        size_t count = take_number(&input, 3) % (op & 8 ? 1 << 19 : 1 << 10);
        if (count > MAX_BYTES - total)
            count = MAX_BYTES - total;
        size_t number = ended, offset, sent;
        switch (op >= 240 ? 6 : op % 6) { /* inputs from before 6 keep their meaning */
        case 0:
            memset(written + total, (int)(op >> 3), count);
            CHECK(pool_write(pool, written + total, count, &fault) == 0);
            total += count;
            break;
        case 1:
            memset(written + total, 0, count);
            CHECK(pool_zeros(pool, count, &fault) == 0);
            total += count;
            break;
        case 2:
            CHECK(pool_flush(pool, &fault) == 0);
            break;
        case 3:
            CHECK(pool_hash_begin(pool, &fault) == (hashing ? -1 : 0));
            begin = hashing ? begin : total;
            hashing = 1;
            break;
        case 4:
            CHECK(pool_hash_end(pool, &number, &fault) == (hashing ? 0 : -1));
            CHECK(number == ended);
            if (hashing)
                SHA256(written + begin, total - begin, expected[ended++]);
            hashing = 0;
            break;
        case 6:
            offset = take_number(&input, 3) % (SOURCE_SIZE + 1);
            CHECK(lseek(source, (off_t)offset, SEEK_SET) == (off_t)offset);
            CHECK(pool_send(pool, source, op & 8 ? (off_t)offset : -1, count, &sent,
                            &fault) == 0);
            CHECK(sent <= count && sent <= SOURCE_SIZE - offset && !(sent && hashing));
            CHECK(sent || hashing || !count || offset == SOURCE_SIZE);
            memcpy(written + total, content + offset, sent);
            total += sent;
            offset += op & 8 ? 0 : sent; /* the position, which only the latter changes */
            CHECK(lseek(source, 0, SEEK_CUR) == (off_t)offset);
            break;
        default:
            number = count % (ended + 1);
            int known = pool_digest(pool, number, op >> 3 & 1, digest, &fault);
            CHECK(number < ended ? known >= 0 : known < 0);
            CHECK(known <= 0 || !memcmp(digest, expected[number], sizeof digest));
        }
        CHECK(pool_position(pool) == total);
    }
    for (size_t number = 0; number < ended; number++) {
        CHECK(pool_digest(pool, number, 1, digest, &fault) == 1);
        CHECK(!memcmp(digest, expected[number], sizeof digest));
    }
    CHECK(pool_flush(pool, &fault) == 0);
    pool_free(pool);
    CHECK(lseek(fd, 0, SEEK_END) == (off_t)total);
    CHECK(pread(fd, arrived, total, 0) == (ssize_t)total);
    CHECK(!memcmp(arrived, written, total));
    close(fd);
    return 0;
}
