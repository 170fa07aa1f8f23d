/* Entries and the files they name into a pool. Files are read straight into the pool's
 * buffers, so that no byte is copied on the way. Outside of layers, files of some size are
 * sent by the kernel instead.
 *
 * A file is compared with what was walked after all of it has passed. What is sent into a pipe
 * or a socket is the file's own pages, though, until the reader takes them: whoever writes to
 * the file in that moment changes what the reader gets, and only the reader, who knows the
 * digest, sees it. */
#ifndef STREAM_IMAGE_COPY_H
#define STREAM_IMAGE_COPY_H

#include "fault.h"
#include "pool.h"
#include "records.h"

#include <stdint.h>
#include <sys/types.h>

/* Copy `count` bytes of the open file `source` from `offset`, or from its current
 * position if that is negative. `path`, terminated, names it in faults.
 *
 * Fails with FAULT_READ, with FAULT_ENTRY if the file ends before, and as pool_space()
 * does. The pool has then taken the bytes read before the failure. The descriptor stays
 * the caller's. */
int copy_range(struct pool *pool, int source, off_t offset, uint64_t count,
               const char *path, struct fault *fault);

/* Write every entry of the records: its header, the content of the file of its name
 * below the root, padding to a full block. The records are not changed.
 *
 * Fails with FAULT_READ for a file that cannot be read, with FAULT_ENTRY for one that
 * is not the one that was walked (by its size and struct records_witness), and as
 * pool_space() does. Faults name the path on disk. The output then ends within an entry. */
int copy_records(struct pool *pool, const struct records *records, struct fault *fault);

#endif
