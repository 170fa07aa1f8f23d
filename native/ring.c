/* A ring of buffers between one thread that fills and writes them and one that
 * hashes them.
 *
 * The caller's thread fills a slot, publishes it to the hasher and at once
 * writes it to the file descriptor, so hashing, writing and the next reading
 * overlap. A slot is filled again when it has been written (always true: the
 * filling thread writes it itself) and hashed. Memory is the slots, whatever
 * passes. SHA-256 is libcrypto's. */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Few enough to stay in a core's cache: with more, each byte comes from memory
 * twice. */
enum { SLOTS = 8, SLOT_SIZE = 256 * 1024 };
/* A ring that was full is filled again when so many slots are free: each waking
 * of a thread costs more than the hashing of some kilobytes. */
enum { SLOTS_AT_ONCE = SLOTS / 2 };
/* Slots between two looks at whether a signal came. */
enum { SLOTS_PER_CHECK = 4 };
/* Hashed at a time, while the next is fetched: as many cache lines as a core can
 * fetch without stalling. */
enum { STRETCH = 2 * 1024, CACHE_LINE = 64 };
enum { PIPE_SIZE = 1024 * 1024 };

struct slot {
    uint8_t *data;
    size_t length;
    int hash; /* its bytes belong to the layer being hashed */
    int end;  /* ... and are its last */
};

struct ring {
    int fd;
    int (*interrupted)(void *);
    void *context;
    struct slot slots[SLOTS];

    /* The filling thread's own. */
    struct fault broken; /* why a write failed: what follows it would leave a hole */
    int open;        /* the slot at `published` is being filled */
    int hashing;     /* between ring_hash_begin and ring_hash_end */
    size_t ends;     /* layers ended */
    uint64_t passed; /* slots written, to pace the looks at signals */

    /* Shared, under `lock`. */
    pthread_mutex_t lock;
    pthread_cond_t published_more, consumed_more;
    uint64_t published, consumed; /* slots, since the beginning */
    uint64_t awaited;             /* `consumed` that the filling thread waits for */
    uint8_t *digests;             /* DIGEST_SIZE bytes per layer ended */
    size_t digest_count, digest_capacity;
    int stop, hasher_failed;
    uint64_t position; /* atomic, relaxed: for watching */

    pthread_t hasher;
};

/* ---- the hashing thread ------------------------------------------------ */

/* Keep a finished digest. Called with the lock held. */
static int keep_digest(struct ring *ring, const uint8_t *digest)
{
    if (ring->digest_count == ring->digest_capacity) {
        size_t capacity = ring->digest_capacity ? ring->digest_capacity * 2 : 64;
        uint8_t *bigger = realloc(ring->digests, capacity * DIGEST_SIZE);
        if (!bigger)
            return -1;
        ring->digests = bigger;
        ring->digest_capacity = capacity;
    }
    memcpy(ring->digests + ring->digest_count++ * DIGEST_SIZE, digest, DIGEST_SIZE);
    return 0;
}

/* Hash a slot, fetching each stretch into this core's cache while the one
 * before it is hashed: another core filled it. */
static int hash_slot(EVP_MD_CTX *context, const struct slot *slot)
{
    int ok = 1;
    for (size_t at = 0; ok && at < slot->length; at += STRETCH) {
        size_t end = at + STRETCH < slot->length ? at + STRETCH : slot->length;
        size_t next = end + STRETCH < slot->length ? end + STRETCH : slot->length;
        for (size_t line = end; line < next; line += CACHE_LINE)
            __builtin_prefetch(slot->data + line);
        ok = EVP_DigestUpdate(context, slot->data + at, end - at);
    }
    return ok;
}

static void *hash_slots(void *argument)
{
    struct ring *ring = argument;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    int ok = context && EVP_DigestInit_ex(context, EVP_sha256(), NULL);

    pthread_mutex_lock(&ring->lock);
    for (;;) {
        while (ring->consumed == ring->published && !ring->stop)
            pthread_cond_wait(&ring->published_more, &ring->lock);
        if (ring->stop)
            break;
        struct slot *slot = &ring->slots[ring->consumed % SLOTS];
        pthread_mutex_unlock(&ring->lock);

        uint8_t digest[EVP_MAX_MD_SIZE];
        int finished = 0;
        if (ok && slot->hash) {
            ok = hash_slot(context, slot);
            if (ok && slot->end) {
                ok = EVP_DigestFinal_ex(context, digest, NULL) &&
                     EVP_DigestInit_ex(context, EVP_sha256(), NULL);
                finished = ok;
            }
        }

        pthread_mutex_lock(&ring->lock);
        if (finished && keep_digest(ring, digest) < 0)
            ok = 0;
        ring->hasher_failed = !ok;
        ring->consumed++;
        if (ring->consumed == ring->awaited || finished || !ok)
            pthread_cond_signal(&ring->consumed_more);
    }
    pthread_mutex_unlock(&ring->lock);
    EVP_MD_CTX_free(context);
    return NULL;
}

/* Signals are for the threads of the program, never for the hasher: a write
 * that waits must be the one that is interrupted. */
static int start_hasher(struct ring *ring)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&ring->hasher, NULL, hash_slots, ring);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

/* ---- life --------------------------------------------------------------- */

/* Free all but the thread. */
static void dismantle(struct ring *ring)
{
    pthread_cond_destroy(&ring->consumed_more);
    pthread_cond_destroy(&ring->published_more);
    pthread_mutex_destroy(&ring->lock);
    for (size_t i = 0; i < SLOTS; i++)
        free(ring->slots[i].data);
    free(ring->digests);
    free(ring);
}

/* Each slot is a block of its own, so that a sanitizer sees a step beyond it. */
static int allocate_slots(struct ring *ring)
{
    for (size_t i = 0; i < SLOTS; i++) {
        ring->slots[i].data = malloc(SLOT_SIZE);
        if (!ring->slots[i].data)
            return -1;
    }
    return 0;
}

struct ring *ring_new(int fd, int (*interrupted)(void *), void *context,
                      struct fault *fault)
{
    struct ring *ring = calloc(1, sizeof *ring);
    if (!ring) {
        fault_set(fault, FAULT_MEMORY, 0);
        return NULL;
    }
    ring->fd = fd;
    ring->interrupted = interrupted;
    ring->context = context;
    pthread_mutex_init(&ring->lock, NULL);
    pthread_cond_init(&ring->published_more, NULL);
    pthread_cond_init(&ring->consumed_more, NULL);
    if (allocate_slots(ring) < 0 || start_hasher(ring)) {
        dismantle(ring);
        fault_set(fault, FAULT_MEMORY, 0);
        return NULL;
    }
    /* A reader that wakes up more rarely costs less. Refused, the pipe stays as
     * it is; what is no pipe has no size. */
    int pipe_size = fcntl(fd, F_GETPIPE_SZ);
    if (pipe_size >= 0 && pipe_size < PIPE_SIZE)
        (void)fcntl(fd, F_SETPIPE_SZ, PIPE_SIZE);
    return ring;
}

void ring_free(struct ring *ring)
{
    pthread_mutex_lock(&ring->lock);
    ring->stop = 1;
    pthread_cond_signal(&ring->published_more);
    pthread_mutex_unlock(&ring->lock);
    pthread_join(ring->hasher, NULL);
    dismantle(ring);
}

uint64_t ring_position(struct ring *ring)
{
    return __atomic_load_n(&ring->position, __ATOMIC_RELAXED);
}

/* ---- filling and writing ----------------------------------------------- */

int ring_check_interrupted(struct ring *ring, struct fault *fault)
{
    if (ring->interrupted(ring->context))
        return fault_set(fault, FAULT_INTERRUPTED, 0);
    return 0;
}

/* write(2) until all is out: pipes take parts, signals interrupt, and a
 * descriptor shared with others can be non-blocking. */
static int write_all(struct ring *ring, const uint8_t *data, size_t length,
                     struct fault *fault)
{
    while (length) {
        ssize_t written = write(ring->fd, data, length);
        if (written >= 0) {
            data += written;
            length -= (size_t)written;
            /* A signal in the middle of a write shows as a short one. */
            if (length && ring_check_interrupted(ring, fault) < 0)
                return -1;
        } else if (errno == EINTR) {
            if (ring_check_interrupted(ring, fault) < 0)
                return -1;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            struct pollfd ready = {.fd = ring->fd, .events = POLLOUT};
            if (poll(&ready, 1, -1) < 0 && errno != EINTR)
                return fault_set(fault, FAULT_WRITE, errno);
            if (ring_check_interrupted(ring, fault) < 0)
                return -1;
        } else {
            return fault_set(fault, FAULT_WRITE, errno);
        }
    }
    return 0;
}

/* Hand the open slot to the hasher and write it. */
static int publish(struct ring *ring, int end, struct fault *fault)
{
    if (ring->broken.kind != FAULT_NONE) {
        *fault = ring->broken;
        return -1;
    }
    struct slot *slot = &ring->slots[ring->published % SLOTS];
    slot->hash = ring->hashing;
    slot->end = end;
    ring->open = 0;

    pthread_mutex_lock(&ring->lock);
    ring->published++;
    pthread_cond_signal(&ring->published_more);
    pthread_mutex_unlock(&ring->lock);

    if (write_all(ring, slot->data, slot->length, fault) < 0) {
        ring->broken = *fault;
        return -1;
    }
    if (++ring->passed % SLOTS_PER_CHECK == 0)
        return ring_check_interrupted(ring, fault);
    return 0;
}

/* Wait until a slot is free and, if none was, some more with it. */
static int await_space(struct ring *ring, struct fault *fault)
{
    pthread_mutex_lock(&ring->lock);
    if (ring->published - ring->consumed == SLOTS) {
        ring->awaited = ring->consumed + SLOTS_AT_ONCE;
        while (ring->consumed < ring->awaited && !ring->hasher_failed)
            pthread_cond_wait(&ring->consumed_more, &ring->lock);
    }
    int failed = ring->hasher_failed;
    pthread_mutex_unlock(&ring->lock);
    return failed ? fault_set(fault, FAULT_CRYPTO, 0) : 0;
}

static int open_slot(struct ring *ring, struct fault *fault)
{
    if (ring->open)
        return 0;
    if (await_space(ring, fault) < 0)
        return -1;
    ring->slots[ring->published % SLOTS].length = 0;
    ring->open = 1;
    return 0;
}

int ring_space(struct ring *ring, uint8_t **space, size_t *length, struct fault *fault)
{
    struct slot *slot = &ring->slots[ring->published % SLOTS];
    if (ring->open && slot->length == SLOT_SIZE) {
        if (publish(ring, 0, fault) < 0)
            return -1;
        slot = &ring->slots[ring->published % SLOTS];
    }
    if (open_slot(ring, fault) < 0)
        return -1;
    *space = slot->data + slot->length;
    *length = SLOT_SIZE - slot->length;
    return 0;
}

void ring_advance(struct ring *ring, size_t length)
{
    ring->slots[ring->published % SLOTS].length += length;
    __atomic_store_n(&ring->position, ring->position + length, __ATOMIC_RELAXED);
}

int ring_write(struct ring *ring, const uint8_t *data, size_t length, struct fault *fault)
{
    while (length) {
        uint8_t *space;
        size_t room;
        if (ring_space(ring, &space, &room, fault) < 0)
            return -1;
        if (room > length)
            room = length;
        memcpy(space, data, room);
        ring_advance(ring, room);
        data += room;
        length -= room;
    }
    return 0;
}

int ring_zeros(struct ring *ring, size_t length, struct fault *fault)
{
    while (length) {
        uint8_t *space;
        size_t room;
        if (ring_space(ring, &space, &room, fault) < 0)
            return -1;
        if (room > length)
            room = length;
        memset(space, 0, room);
        ring_advance(ring, room);
        length -= room;
    }
    return 0;
}

int ring_flush(struct ring *ring, struct fault *fault)
{
    return ring->open ? publish(ring, 0, fault) : 0;
}

/* ---- hashing ----------------------------------------------------------- */

int ring_hash_begin(struct ring *ring, struct fault *fault)
{
    if (ring->hashing)
        return fault_set(fault, FAULT_STATE, 0);
    if (ring_flush(ring, fault) < 0)
        return -1;
    ring->hashing = 1;
    return 0;
}

int ring_hash_end(struct ring *ring, size_t *number, struct fault *fault)
{
    if (!ring->hashing)
        return fault_set(fault, FAULT_STATE, 0);
    if (open_slot(ring, fault) < 0 || publish(ring, 1, fault) < 0)
        return -1;
    ring->hashing = 0;
    *number = ring->ends++;
    return 0;
}

int ring_digest(struct ring *ring, size_t number, int wait, uint8_t digest[DIGEST_SIZE],
                struct fault *fault)
{
    if (number >= ring->ends)
        return fault_set(fault, FAULT_STATE, 0);
    pthread_mutex_lock(&ring->lock);
    while (wait && ring->digest_count <= number && !ring->hasher_failed)
        pthread_cond_wait(&ring->consumed_more, &ring->lock);
    int failed = ring->hasher_failed, known = number < ring->digest_count;
    if (known)
        memcpy(digest, ring->digests + number * DIGEST_SIZE, DIGEST_SIZE);
    pthread_mutex_unlock(&ring->lock);
    return failed ? fault_set(fault, FAULT_CRYPTO, 0) : known;
}
