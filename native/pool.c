#include "pool.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <unistd.h>

enum { SLOTS = POOL_MAX_SLOTS, SLOT_SIZE = POOL_SLOT_SIZE, MAX_HASHERS = 4 };
/* After waiting for a free slot, resume only once this many are free: waking a thread
 * costs more than hashing some kilobytes. */
enum { SLOTS_AT_ONCE = 4 };
/* Bytes written between two checks for signals, and at most sent by one call. */
enum { BYTES_PER_CHECK = 1024 * 1024 };
/* Bytes hashed while the next ones are fetched: as many cache lines as a core can fetch
 * without stalling. */
enum { STRETCH = 2 * 1024, CACHE_LINE = 64 };
enum { PIPE_SIZE = 1024 * 1024 };

struct slot {
    uint8_t *data; /* allocated when it is first filled */
    size_t length;
    size_t layer;
    int end;           /* these are the layer's last bytes */
    struct slot *next; /* in the free list or a hasher's queue */
};

struct result {
    int known;
    uint8_t digest[POOL_DIGEST_SIZE];
};

/* A hashing thread. Its queue is shared, under the pool's lock. */
struct hasher {
    struct pool *pool;
    pthread_t thread;
    int started;               /* the caller's own */
    pthread_cond_t more;       /* there is a slot in the queue, or `stop` is set */
    struct slot *first, *last; /* the queue; `last` is undefined if `first` is NULL */
};

struct pool {
    int fd;
    pid_t owner; /* the process that has the hashing threads: none is inherited by fork(2) */
    int (*interrupted)(void *);
    void *context;
    struct slot slots[SLOTS];

    /* The caller's own. */
    struct fault broken; /* why a write failed: any later one would leave a hole */
    struct slot *open;   /* being filled, or NULL */
    int hashing;         /* between pool_hash_begin and pool_hash_end */
    size_t ends;         /* layers ended */
    uint64_t unchecked;  /* bytes written since the last check for signals */

    /* Shared by all threads, under `lock`. */
    pthread_mutex_t lock;
    pthread_cond_t progress;   /* the caller waits for it, for slots or a digest */
    struct slot *free;         /* the last one hashed comes first: it is in a cache */
    size_t free_count, wanted; /* slots in `free`; how many of them end the caller's wait */
    struct result *results;    /* of layers that have ended */
    size_t result_capacity;
    int stop;          /* the hashers are to return */
    int failed;        /* libcrypto failed; no digest can be trusted */
    uint64_t position; /* atomic, relaxed: for watching */

    size_t hasher_count; /* constant */
    struct hasher hashers[MAX_HASHERS];
};

/* ---- the hashing threads ------------------------------------------------ */

/* Hash a slot, fetching each stretch into this core's cache while the one before it is
 * hashed: another core filled it. Returns 0 if libcrypto fails. */
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

/* Put a slot on the free list. Called with the lock held. */
static void release(struct pool *pool, struct slot *slot)
{
    slot->next = pool->free;
    pool->free = slot;
    pool->free_count++;
}

/* The body of a hashing thread. After a failure it still frees slots, so that the caller
 * wakes up and sees it. */
static void *hash_slots(void *argument)
{
    struct hasher *hasher = argument;
    struct pool *pool = hasher->pool;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    int ok = context && EVP_DigestInit_ex(context, EVP_sha256(), NULL);

    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!hasher->first && !pool->stop)
            pthread_cond_wait(&hasher->more, &pool->lock);
        if (pool->stop)
            break;
        struct slot *slot = hasher->first;
        hasher->first = slot->next;
        pthread_mutex_unlock(&pool->lock);

        uint8_t digest[EVP_MAX_MD_SIZE];
        ok = ok && hash_slot(context, slot);
        if (ok && slot->end)
            ok = EVP_DigestFinal_ex(context, digest, NULL) &&
                 EVP_DigestInit_ex(context, EVP_sha256(), NULL);

        pthread_mutex_lock(&pool->lock);
        if (ok && slot->end) {
            memcpy(pool->results[slot->layer].digest, digest, POOL_DIGEST_SIZE);
            pool->results[slot->layer].known = 1;
        }
        pool->failed |= !ok;
        int end = slot->end;
        release(pool, slot);
        if (pool->free_count == pool->wanted || end || !ok)
            pthread_cond_signal(&pool->progress);
    }
    pthread_mutex_unlock(&pool->lock);
    EVP_MD_CTX_free(context);
    return NULL;
}

/* Start a hashing thread with all signals blocked, so that they interrupt a write that
 * waits instead. Returns 0, or an error number. */
static int start_hasher(struct hasher *hasher)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&hasher->thread, NULL, hash_slots, hasher);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    hasher->started = !error;
    return error;
}

/* Return the number of hashing threads: one per core that this thread may use, at least
 * one and at most MAX_HASHERS. */
static size_t hasher_count(void)
{
    cpu_set_t cpus;
    size_t count = 1;
    if (sched_getaffinity(0, sizeof cpus, &cpus) == 0)
        count = (size_t)CPU_COUNT(&cpus);
    return count < 1 ? 1 : count > MAX_HASHERS ? MAX_HASHERS : count;
}

/* ---- life --------------------------------------------------------------- */

struct pool *pool_new(int fd, size_t slots, int (*interrupted)(void *), void *context,
                      struct fault *fault)
{
    struct pool *pool = calloc(1, sizeof *pool);
    if (!pool) {
        fault_set(fault, FAULT_MEMORY, 0);
        return NULL;
    }
    pool->fd = fd;
    pool->owner = getpid();
    pool->interrupted = interrupted;
    pool->context = context;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->progress, NULL);
    for (size_t i = slots; i-- > 0;)
        release(pool, &pool->slots[i]);
    pool->hasher_count = hasher_count();
    for (size_t i = 0; i < pool->hasher_count; i++) {
        pool->hashers[i].pool = pool;
        pthread_cond_init(&pool->hashers[i].more, NULL);
    }
    /* A reader that wakes up more rarely costs less. If this is refused, the pipe stays
     * as it is; a descriptor that is not a pipe has no pipe size. */
    int pipe_size = fcntl(fd, F_GETPIPE_SZ);
    if (pipe_size >= 0 && pipe_size < PIPE_SIZE)
        (void)fcntl(fd, F_SETPIPE_SZ, PIPE_SIZE);
    return pool;
}

/* End the hashing threads. */
static void end_hashers(struct pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->stop = 1;
    for (size_t i = 0; i < pool->hasher_count; i++)
        pthread_cond_signal(&pool->hashers[i].more);
    pthread_mutex_unlock(&pool->lock);
    for (size_t i = 0; i < pool->hasher_count; i++) {
        if (pool->hashers[i].started)
            pthread_join(pool->hashers[i].thread, NULL);
        pthread_cond_destroy(&pool->hashers[i].more);
    }
    pthread_cond_destroy(&pool->progress);
    pthread_mutex_destroy(&pool->lock);
}

int pool_is_inherited(const struct pool *pool)
{
    return pool->owner != getpid();
}

void pool_free(struct pool *pool)
{
    if (!pool)
        return;
    /* In a child process, the lock may be held and the conditions waited for by threads that
     * it does not have. */
    if (!pool_is_inherited(pool))
        end_hashers(pool);
    /* Each slot is a block of its own, so that a sanitizer sees an overrun. */
    for (size_t i = 0; i < SLOTS; i++)
        free(pool->slots[i].data);
    free(pool->results);
    free(pool);
}

uint64_t pool_position(struct pool *pool)
{
    return __atomic_load_n(&pool->position, __ATOMIC_RELAXED);
}

/* ---- filling and writing ----------------------------------------------- */

int pool_check_interrupted(struct pool *pool, struct fault *fault)
{
    if (pool->interrupted(pool->context))
        return fault_set(fault, FAULT_INTERRUPTED, 0);
    return 0;
}

/* Wait until a non-blocking output takes bytes. */
static int wait_writable(struct pool *pool, struct fault *fault)
{
    struct pollfd ready = {.fd = pool->fd, .events = POLLOUT};
    if (poll(&ready, 1, -1) < 0 && errno != EINTR)
        return fault_set(fault, FAULT_WRITE, errno);
    return pool_check_interrupted(pool, fault);
}

/* Call write(2) until all is written: pipes take parts, signals interrupt, and a
 * descriptor shared with other processes can be non-blocking. */
static int write_all(struct pool *pool, const uint8_t *data, size_t length,
                     struct fault *fault)
{
    while (length) {
        ssize_t written = write(pool->fd, data, length);
        if (written >= 0) {
            data += written;
            length -= (size_t)written;
            /* A signal in the middle of a write shows as a short one. */
            if (length && pool_check_interrupted(pool, fault) < 0)
                return -1;
        } else if (errno == EINTR) {
            if (pool_check_interrupted(pool, fault) < 0)
                return -1;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if (wait_writable(pool, fault) < 0)
                return -1;
        } else {
            return fault_set(fault, FAULT_WRITE, errno);
        }
    }
    return 0;
}

/* Make every later write fail like this one. A signal handler's exception is raised only
 * once: after it they are interrupted writes. Returns -1. */
static int break_off(struct pool *pool, const struct fault *fault)
{
    if (fault->kind == FAULT_INTERRUPTED)
        fault_set(&pool->broken, FAULT_WRITE, EINTR);
    else
        pool->broken = *fault;
    return -1;
}

/* Count `length` bytes that were written. Returns 0, or what the check for signals that is due
 * then returns. */
static int count_written(struct pool *pool, size_t length, struct fault *fault)
{
    pool->unchecked += length;
    if (pool->unchecked < BYTES_PER_CHECK)
        return 0;
    pool->unchecked = 0;
    return pool_check_interrupted(pool, fault);
}

/* Hand the open slot to the layer's hasher, if there is a layer, and write it. `end` is 1
 * for the layer's last slot, which may be empty. There need not be a slot if the pool is
 * broken. */
static int publish(struct pool *pool, int end, struct fault *fault)
{
    if (pool->broken.kind != FAULT_NONE) {
        *fault = pool->broken;
        return -1;
    }
    struct slot *slot = pool->open;
    const uint8_t *data = slot->data;
    size_t length = slot->length;
    slot->layer = pool->ends;
    slot->end = end;
    slot->next = NULL;
    pool->open = NULL;

    struct hasher *hasher = &pool->hashers[pool->ends % pool->hasher_count];
    if (pool->hashing && !hasher->started) {
        int error = start_hasher(hasher);
        if (error) {
            fault_set(fault, FAULT_THREAD, error);
            return break_off(pool, fault);
        }
    }
    pthread_mutex_lock(&pool->lock);
    if (!pool->hashing) {
        release(pool, slot); /* only this thread takes slots, and it writes first */
    } else {
        if (hasher->first)
            hasher->last->next = slot;
        else
            hasher->first = slot;
        hasher->last = slot;
        pthread_cond_signal(&hasher->more);
    }
    pthread_mutex_unlock(&pool->lock);

    if (write_all(pool, data, length, fault) < 0 || count_written(pool, length, fault) < 0)
        return break_off(pool, fault);
    return 0;
}

/* Make sure that there is an open slot: take a free one, waiting for it if there is
 * none. */
static int open_slot(struct pool *pool, struct fault *fault)
{
    if (pool->open)
        return 0;
    pthread_mutex_lock(&pool->lock);
    if (!pool->free) {
        pool->wanted = SLOTS_AT_ONCE;
        while (pool->free_count < SLOTS_AT_ONCE && !pool->failed)
            pthread_cond_wait(&pool->progress, &pool->lock);
        pool->wanted = 0;
    }
    int failed = pool->failed;
    struct slot *slot = pool->free;
    if (!failed) {
        pool->free = slot->next;
        pool->free_count--;
        pool->open = slot;
    }
    pthread_mutex_unlock(&pool->lock);
    if (failed)
        return fault_set(fault, FAULT_CRYPTO, 0);
    slot->length = 0;
    if (!slot->data && !(slot->data = malloc(SLOT_SIZE))) {
        pthread_mutex_lock(&pool->lock);
        release(pool, slot);
        pthread_mutex_unlock(&pool->lock);
        pool->open = NULL;
        return fault_set(fault, FAULT_MEMORY, 0);
    }
    return 0;
}

int pool_space(struct pool *pool, uint8_t **space, size_t *length, struct fault *fault)
{
    if (pool->open && pool->open->length == SLOT_SIZE && publish(pool, 0, fault) < 0)
        return -1;
    if (open_slot(pool, fault) < 0)
        return -1;
    *space = pool->open->data + pool->open->length;
    *length = SLOT_SIZE - pool->open->length;
    return 0;
}

static void advance_position(struct pool *pool, size_t length)
{
    __atomic_store_n(&pool->position, pool->position + length, __ATOMIC_RELAXED);
}

void pool_advance(struct pool *pool, size_t length)
{
    pool->open->length += length;
    advance_position(pool, length);
}

int pool_write(struct pool *pool, const uint8_t *data, size_t length, struct fault *fault)
{
    while (length) {
        uint8_t *space;
        size_t room;
        if (pool_space(pool, &space, &room, fault) < 0)
            return -1;
        if (room > length)
            room = length;
        memcpy(space, data, room);
        pool_advance(pool, room);
        data += room;
        length -= room;
    }
    return 0;
}

int pool_zeros(struct pool *pool, size_t length, struct fault *fault)
{
    while (length) {
        uint8_t *space;
        size_t room;
        if (pool_space(pool, &space, &room, fault) < 0)
            return -1;
        if (room > length)
            room = length;
        memset(space, 0, room);
        pool_advance(pool, room);
        length -= room;
    }
    return 0;
}

int pool_flush(struct pool *pool, struct fault *fault)
{
    if (!pool->open && pool->broken.kind == FAULT_NONE)
        return 0;
    return publish(pool, 0, fault);
}

int pool_send(struct pool *pool, int source, off_t offset, uint64_t count, size_t *sent,
              struct fault *fault)
{
    size_t most = count < BYTES_PER_CHECK ? (size_t)count : BYTES_PER_CHECK;
    off_t *from = offset < 0 ? NULL : &offset;

    *sent = 0;
    if (pool->hashing)
        return 0;
    if (pool_flush(pool, fault) < 0)
        return -1;
    ssize_t moved = sendfile(pool->fd, source, from, most);
    if (moved < 0 && errno == EAGAIN) {
        if (wait_writable(pool, fault) < 0)
            return break_off(pool, fault);
        moved = sendfile(pool->fd, source, from, most);
    }
    if (moved > 0) {
        *sent = (size_t)moved;
        advance_position(pool, *sent);
        if (count_written(pool, *sent, fault) < 0)
            return break_off(pool, fault);
    }
    /* A signal in the middle shows as fewer bytes, as in write_all(). */
    if (moved < (ssize_t)most && pool_check_interrupted(pool, fault) < 0)
        return break_off(pool, fault);
    return 0;
}

/* ---- hashing ----------------------------------------------------------- */

int pool_hash_begin(struct pool *pool, struct fault *fault)
{
    if (pool->hashing)
        return fault_set(fault, FAULT_STATE, 0);
    if (pool_flush(pool, fault) < 0)
        return -1;
    pool->hashing = 1;
    return 0;
}

/* Make room for the result of the current layer. */
static int reserve_result(struct pool *pool, struct fault *fault)
{
    if (pool->ends < pool->result_capacity)
        return 0;
    size_t capacity = pool->result_capacity ? pool->result_capacity * 2 : 64;
    pthread_mutex_lock(&pool->lock);
    struct result *results = realloc(pool->results, capacity * sizeof *results);
    if (results) {
        memset(results + pool->result_capacity, 0,
               (capacity - pool->result_capacity) * sizeof *results);
        pool->results = results;
        pool->result_capacity = capacity;
    }
    pthread_mutex_unlock(&pool->lock);
    return results ? 0 : fault_set(fault, FAULT_MEMORY, 0);
}

int pool_hash_end(struct pool *pool, size_t *number, struct fault *fault)
{
    if (!pool->hashing)
        return fault_set(fault, FAULT_STATE, 0);
    if (reserve_result(pool, fault) < 0 || open_slot(pool, fault) < 0 ||
        publish(pool, 1, fault) < 0)
        return -1;
    pool->hashing = 0;
    *number = pool->ends++;
    return 0;
}

int pool_digest(struct pool *pool, size_t number, int wait,
                uint8_t digest[POOL_DIGEST_SIZE], struct fault *fault)
{
    if (number >= pool->ends)
        return fault_set(fault, FAULT_STATE, 0);
    pthread_mutex_lock(&pool->lock);
    while (wait && !pool->results[number].known && !pool->failed)
        pthread_cond_wait(&pool->progress, &pool->lock);
    int failed = pool->failed, known = pool->results[number].known;
    if (known)
        memcpy(digest, pool->results[number].digest, POOL_DIGEST_SIZE);
    pthread_mutex_unlock(&pool->lock);
    return failed ? fault_set(fault, FAULT_CRYPTO, 0) : known;
}
