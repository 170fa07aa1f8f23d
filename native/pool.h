/* Buffers between one thread that fills and writes them and several that hash them.
 *
 *            pool_space, pool_advance      publish
 *   caller  -------------------------> slot -----> write(2), by the caller's thread
 *                                            \---> SHA-256, by the layer's hashing thread
 *            pool_send, outside layers
 *   file    -------------------------------------> sendfile(2): pages that nobody touches
 *
 * The caller's thread takes a free slot, fills it, hands it to the thread that hashes
 * its layer and writes it to the file descriptor at once, so that hashing, writing and
 * the next reading overlap. A slot is free again when it has been written and hashed.
 *
 * A layer is hashed by one thread, and a pool has one hashing thread per core that the
 * process may use, at most 4: layer n belongs to thread n modulo their number, so that
 * the next layer can begin before the previous one is finished. A thread starts with its
 * first layer, ends in pool_free(), blocks all signals, and calls neither `interrupted`
 * nor Python.
 *
 * A pool's buffers take as many slots of 256 KiB as its caller asks for, at most 64 (16 MiB),
 * however much is written; each is allocated when it is first needed. A layer's digest takes
 * some 40 bytes. */
#ifndef STREAM_IMAGE_POOL_H
#define STREAM_IMAGE_POOL_H

#include "fault.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { POOL_DIGEST_SIZE = 32 }; /* bytes of a SHA-256 */
enum { POOL_SLOT_SIZE = 256 * 1024, POOL_MIN_SLOTS = 8, POOL_MAX_SLOTS = 64 };

/* All functions but pool_position() belong to one thread at a time, "the caller". */
struct pool;

/* Return a pool of `slots` slots, POOL_MIN_SLOTS to POOL_MAX_SLOTS, that writes to `fd`, or
 * NULL with the fault filled in. The descriptor stays the caller's and must outlive the pool; a pipe is enlarged to 1 MiB if that is
 * allowed.
 *
 * `interrupted(context)` is called in the caller's thread, from within other pool
 * functions: after a system call that a signal interrupted, and after every few slots. If
 * it returns non-zero, the running call fails with FAULT_INTERRUPTED. Of the pool's
 * functions it may call only pool_position(). */
struct pool *pool_new(int fd, size_t slots, int (*interrupted)(void *), void *context,
                      struct fault *fault);

/* Return whether the pool was made by another process, from which this one was forked. Then
 * only pool_free() and pool_position() may be called: its hashing threads are not here. */
int pool_is_inherited(const struct pool *pool);

/* End the hashing threads, each after the slot it is hashing, and free the pool. Does not
 * flush: bytes still in an unwritten slot are dropped. Does nothing for NULL. */
void pool_free(struct pool *pool);

/* Return the number of bytes taken so far, written or not. Any thread may call this while
 * another is in the pool. */
uint64_t pool_position(struct pool *pool);

/* Call the callback now: for callers whose own system call failed with EINTR. Fails with
 * FAULT_INTERRUPTED alone. */
int pool_check_interrupted(struct pool *pool, struct fault *fault);

/* Set `*space` and `*length` to free bytes, at least one and at most a slot. The caller
 * may fill them until it calls another function of this pool but
 * pool_check_interrupted(). Writes a slot that is full, and waits for a free one.
 *
 * Fails with FAULT_WRITE, FAULT_INTERRUPTED, FAULT_MEMORY, FAULT_THREAD or
 * FAULT_CRYPTO, as do all functions below that take or write bytes. After a failed write the pool is broken: it
 * writes nothing more, so that the output has no hole, and fails with the same fault, or
 * after FAULT_INTERRUPTED with FAULT_WRITE and EINTR. */
int pool_space(struct pool *pool, uint8_t **space, size_t *length, struct fault *fault);

/* Take the first `length` of the bytes that pool_space() gave, which the caller has
 * filled. */
void pool_advance(struct pool *pool, size_t length);

/* Take `length` bytes of `data`, which are copied. On failure some may have been
 * taken. */
int pool_write(struct pool *pool, const uint8_t *data, size_t length, struct fault *fault);

/* Take `length` zero bytes. On failure some may have been taken. */
int pool_zeros(struct pool *pool, size_t length, struct fault *fault);

/* Write up to `count` bytes of the open file `source` without reading them, from `offset`,
 * or from its current position if that is negative. Flushes, and sets `*sent` to the number
 * of bytes taken and written.
 *
 * That is 0 inside a layer, whose bytes have to be hashed, and wherever sendfile(2) moves
 * nothing, be it that it does not support one of the files, that `source` has ended, or that
 * one of them has failed. Reading and writing either work then, or say what is wrong. */
int pool_send(struct pool *pool, int source, off_t offset, uint64_t count, size_t *sent,
              struct fault *fault);

/* Write everything taken so far to the file descriptor. Does not fsync(2). */
int pool_flush(struct pool *pool, struct fault *fault);

/* Begin a layer: hash the bytes taken from here to pool_hash_end(). Flushes. Fails with
 * FAULT_STATE inside a layer. */
int pool_hash_begin(struct pool *pool, struct fault *fault);

/* End the layer and set `*number` to its number, from 0 and in order, for pool_digest().
 * Flushes, but does not wait for the hash. Fails with FAULT_STATE outside a layer; after
 * any failure the layer has not ended. */
int pool_hash_end(struct pool *pool, size_t *number, struct fault *fault);

/* Write the SHA-256 of layer `number` to `digest` and return 1. If it is not known yet,
 * wait for it, or return 0 if `wait` is 0. May be called repeatedly. Returns -1 with
 * FAULT_STATE if no layer of this number has ended, or FAULT_CRYPTO. */
int pool_digest(struct pool *pool, size_t number, int wait,
                uint8_t digest[POOL_DIGEST_SIZE], struct fault *fault);

#endif
